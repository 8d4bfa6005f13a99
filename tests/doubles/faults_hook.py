"""Runs inside every process of a command under test: counts its moments, and at a given one kills or stops them all.

A moment is a call after which the disk is another: a file flushed, renamed or removed, a ledger opened, committed to or
closed; `record STAGE` begins what a stage commits. faults_site/sitecustomize.py calls `install`, so the command is
the real one, `python -m likeness ...`, and its worker processes are counted too.

    FAULTS_LOG   a file that gets a line of LINE bytes a moment; its length is the count over all processes
    FAULTS_AT    "37": the 37th moment; "commit scan": the first whose line begins so; unset: none, moments are counted
    FAULTS_DO    "kill" or "stop": SIGKILL or SIGSTOP to the whole process group
    FAULTS_WHEN  "before" the call, "after" it, or so many milliseconds after it began, in the middle of what follows

It also makes the work small: people who do not exist and models that find them (curate_doubles.py), a restorer of a few
thousand weights, batches of a few files, a checkpoint every eight images.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

LINE = 64
CHECKPOINT_EVERY = 8  # images
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def install() -> None:
    for name in ("replace", "rename", "fsync", "unlink", "rmdir"):
        plain = getattr(os, name)
        counted = moment(name, plain)
        setattr(os, name, counted)
        if plain in os.supports_dir_fd:
            os.supports_dir_fd.add(counted)  # shutil.rmtree asks for it
    sys.meta_path.insert(0, _Afterwards(_PATCHES))


def moment(kind: str, plain: Callable[..., Any], named: Callable[..., str] | None = None) -> Callable[..., Any]:
    """`plain`, with what FAULTS_* ask for around it."""

    @functools.wraps(plain)
    def counted(*told: Any, **options: Any) -> Any:
        line = f"{kind} {named(*told) if named else _name(told)}"
        if line.endswith((".tmp", ":memory:")):  # a temporary file that is renamed already; duckdb without a file
            return plain(*told, **options)
        due = _due(line)
        when = os.environ.get("FAULTS_WHEN", "before")
        if due and when == "before":
            _strike()
        if due and when not in ("before", "after"):
            threading.Timer(float(when) / 1000, _strike).start()
        try:
            return plain(*told, **options)
        finally:  # also where it raises: a file that was not there to remove
            if due and when == "after":
                _strike()

    return counted


def _name(told: tuple[Any, ...]) -> str:
    """The file name of the last path among the arguments."""
    paths = [item for item in told if isinstance(item, str | bytes | os.PathLike)]
    return Path(os.fsdecode(paths[-1])).name if paths else ""


def _due(line: str) -> bool:
    """Write the line of a moment; whether it is the one."""
    log = os.environ["FAULTS_LOG"]
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, line.encode()[: LINE - 1].ljust(LINE - 1) + b"\n")
        count = os.fstat(file).st_size // LINE
    finally:
        os.close(file)
    at = os.environ.get("FAULTS_AT", "")
    return count == int(at) if at.isdigit() else bool(at) and line.startswith(at)


def _strike() -> None:
    number = _SIGNALS[os.environ["FAULTS_DO"]]
    os.environ["FAULTS_AT"] = ""  # once: a process that was stopped goes on undisturbed
    os.killpg(0, number)
    if number == signal.SIGKILL:
        time.sleep(60)  # another thread must get no further


class _Afterwards(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as it has been imported."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]]) -> None:
        self._patches = dict(patches)

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        patch = self._patches.pop(name, None)
        spec = importlib.machinery.PathFinder.find_spec(name, path) if patch else None
        if patch is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_patch(module: ModuleType) -> None:
            run(module)
            patch(module)

        spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def _duckdb(module: ModuleType) -> None:
    connection = module.DuckDBPyConnection
    execute = connection.execute
    committed = moment("commit", execute, lambda *_: "")
    connection.execute = lambda self, sql, *more: (committed if sql == "COMMIT" else execute)(self, sql, *more)
    connection.close = moment("close", connection.close, lambda *_: "")
    module.connect = moment("connect", module.connect)


def _ledger(module: ModuleType) -> None:
    """A stage's record as a moment of its own, so that a test can name it."""
    record = module.Ledger.record
    module.Ledger.record = moment("record", record, lambda self, stage, *_: stage)


def _constants(**constants: Any) -> Callable[[ModuleType], None]:
    def patch(module: ModuleType) -> None:
        for name, value in constants.items():
            assert hasattr(module, name), name
            setattr(module, name, value)

    return patch


def _faces(module: ModuleType) -> None:
    def double(spec: str = "auto", threads: int = 1) -> Any:
        from tests.doubles.curation import models

        return models(spec)

    module.load_faces = module.load_faces_once = double


def _recipes(module: ModuleType) -> None:
    #                size f  channels      references   refine lora images batch rate warmup decay cool clip ema
    module._BASES[module.TINY] = (32, 4, (16, 16, 24), (8, 16, 16), 4, 0, 24, 4, 1e-3, 8, 16, 0, 1.0, 8)


def _loop(module: ModuleType) -> None:
    module.train = functools.partial(module.train, checkpoint_every=CHECKPOINT_EVERY)
    module.LOG_EVERY = CHECKPOINT_EVERY


def _cleaning(module: ModuleType) -> None:
    # doubles are no faces: what is judged is whether the bounds are asked
    assert hasattr(module, "Bounds")
    module.Bounds = functools.partial(module.Bounds, clean_noise=50.0, clean_blockiness=50.0, change=200.0)


def _attempts(module: ModuleType) -> None:
    def sharpen(*told: Any) -> Any:
        from tests.doubles.iteration import sharpened

        return sharpened(*told)

    _constants(run_model=sharpen, BATCH=2)(module)


_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "duckdb": _duckdb,
    "manifests.ledger.ledger": _ledger,
    "manifests.privacy.keys": _constants(create_key=lambda: bytes(32)),  # so that two datasets can be compared
    "curate.faces.load": _faces,
    "curate.photos.batches": _constants(FILES_A_BATCH=4, PHOTOS_A_BATCH=4),
    "degrade.frozen.dataset_sets": _constants(BATCH=4),
    "train.recipes.recipes": _recipes,
    "train.iterate.acceptance": _cleaning,
    "train.iterate.clean": _attempts,
    "train.fit.loop": _loop,
}
