"""Counts the moments of a command under test, and kills or stops all processes of the command at a given moment.

A moment is a call that changes the disk: a file is flushed, renamed or removed, or a ledger is opened, committed or
closed. `record STAGE` is the moment at which the commit of a stage begins. startup/sitecustomize.py calls `install` in
every process of the command. The tests can therefore run the real command, `python -m likeness ...`. The moments of the
command's worker processes also count. The variables of the environment are:

    FAULTS_LOG   a file that gets a line of LINE bytes for each moment of any process
    FAULTS_AT    "37" is the 37th moment; "commit scan" is the first moment whose line begins so; empty means no fault
    FAULTS_DO    "kill" or "stop": the whole process group gets SIGKILL or SIGSTOP
    FAULTS_WHEN  "before" or "after" the call, or a number of milliseconds after the start of the call

`install` also makes the work small: the command gets the people and face models of tests/doubles/curation.py, a
restorer of a few thousand weights, batches of a few files, and a checkpoint every eight images.
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
CHECKPOINT_EVERY = 8  # the number of images between two checkpoints
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def install() -> None:
    for name in ("replace", "rename", "fsync", "unlink", "rmdir"):
        plain = getattr(os, name)
        counted = moment(name, plain)
        setattr(os, name, counted)
        if plain in os.supports_dir_fd:
            os.supports_dir_fd.add(counted)  # shutil.rmtree accepts only functions that are in this set
    sys.meta_path.insert(0, _Afterwards(_PATCHES))


def moment(kind: str, plain: Callable[..., Any], named: Callable[..., str] | None = None) -> Callable[..., Any]:
    """Returns a function that calls `plain`, counts a moment, and disturbs the command at the moment FAULTS_AT."""

    @functools.wraps(plain)
    def counted(*told: Any, **options: Any) -> Any:
        line = f"{kind} {named(*told) if named else _name(told)}"
        # A call does not count as a moment if its last path is a temporary file or a DuckDB database in memory.
        if line.endswith((".tmp", ":memory:")):
            return plain(*told, **options)
        due = _due(line)
        when = os.environ.get("FAULTS_WHEN", "before")
        if due and when == "before":
            _strike()
        if due and when not in ("before", "after"):
            threading.Timer(float(when) / 1000, _strike).start()
        try:
            return plain(*told, **options)
        finally:  # the fault also comes if the call raises an error, for example because the file to remove is missing
            if due and when == "after":
                _strike()

    return counted


def _name(told: tuple[Any, ...]) -> str:
    """Returns the file name of the last path among the arguments."""
    paths = [item for item in told if isinstance(item, str | bytes | os.PathLike)]
    return Path(os.fsdecode(paths[-1])).name if paths else ""


def _due(line: str) -> bool:
    """Writes the line of a moment to the log. Returns whether FAULTS_AT names this moment."""
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
    # there is only one fault, so a process that continues after a stop gets no other fault
    os.environ["FAULTS_AT"] = ""
    os.killpg(0, number)
    if number == signal.SIGKILL:
        time.sleep(60)  # no other thread may continue until the signal arrives


class _Afterwards(importlib.abc.MetaPathFinder):
    """Calls a function for each module in `patches` as soon as this module has been imported."""

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
    """Counts each call of `Ledger.record` as a moment with the name of the stage."""
    record = module.Ledger.record
    module.Ledger.record = moment("record", record, lambda self, stage, *_: stage)


def _constants(**constants: Any) -> Callable[[ModuleType], None]:
    def patch(module: ModuleType) -> None:
        for name, value in constants.items():
            assert hasattr(module, name), name
            setattr(module, name, value)

    return patch


def _faces(module: ModuleType) -> None:
    def double(spec: str = "auto", device: str = "cpu", threads: int = 1) -> Any:
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
    # The limits of a cleaned version are wide, because the pictures of the doubles are not faces. The tests check only
    # that Likeness uses the limits.
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
    # The key is fixed, so that two datasets can be compared.
    "manifests.privacy.keys": _constants(create_key=lambda: bytes(32)),
    "curate.faces.load": _faces,
    "curate.photos.batches": _constants(FILES_A_BATCH=4, PHOTOS_A_BATCH=4, SECONDS_A_TRANSACTION=0),
    "degrade.frozen.dataset_sets": _constants(BATCH=4),
    "train.recipes.recipes": _recipes,
    "train.iterate.acceptance": _cleaning,
    "train.iterate.clean": _attempts,
    "train.fit.loop": _loop,
}
