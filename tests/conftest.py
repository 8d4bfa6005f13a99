"""Prepares all tests: one thread for each process, the settings of hypothesis, and shared fixtures."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Each process of the tests uses one thread, because pytest-xdist starts one process for each core. The results of tests
# that compare bits must not depend on the number of threads. The variables are set before numpy, OpenCV and torch are
# imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# Some machines set PYTHONDONTWRITEBYTECODE. With this variable, each of the many processes that the tests start would
# compile all of our modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# If a shell starts a job in the background, the job ignores SIGINT. The tests of Ctrl-C need Python's usual handler of
# SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

from tests.doubles.commands.forked_commands import start_python
from tests.doubles.commands.forked_workers import fork_workers
from tests.doubles.ledger_threads import use_one_thread
from tests.places import SHARED, Run

fork_workers()
use_one_thread()

# `make test` draws the same random examples each time. `make fuzz` sets HYPOTHESIS_PROFILE=free to draw new examples.
# No example has a time limit, because an example can take long on a busy machine.
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.register_profile("free", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


# The files and folders with the longest tests. These tests run first, so that all processes of pytest-xdist end at
# about the same time.
LONGEST = ("faults", "command_line/test_run.py", "train/recipes/test_recipes.py", "train/fit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the tests of LONGEST to the front, and keeps the order of all other tests."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((place for place, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Stops the garbage collector from searching all modules and tests again and again, which takes time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Returns the folder of the shared photos beside the repository. If this folder is missing, the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}")
    return SHARED


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Yields an empty folder that other users of the machine may read.

    `tmp_path` cannot be such a folder, because each start of pytest closes the folder of all `tmp_path` to other users.
    """
    with tempfile.TemporaryDirectory(prefix="likeness-public-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def likeness() -> Run:
    """Returns a function that runs a command in a new process, for example `likeness("manifest", "show", path)`."""

    def run(*words: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        environment.pop("LIKENESS_DEBUG", None)
        process = start_python(["-m", "likeness", *map(str, words)], environment)
        out, err = process.communicate(timeout)
        assert process.returncode is not None
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs a command in this process, for example `command("train", path)`.

    This function is faster than `likeness`, because the command does not import the libraries again.
    """

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        from likeness import main

        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("COLUMNS", "200")
            patch.delenv("LIKENESS_DEBUG", raising=False)
            patch.setattr(sys, "argv", ["likeness", *map(str, words)])
            try:
                main()
                code = 0
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    return run
