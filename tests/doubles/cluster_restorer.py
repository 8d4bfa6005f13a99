"""Prepares this process, and the worker processes of a node, to restore photos with the doubles of face models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train.restore.decisions.harm
import train.restore.restorers.face_restorer
from manifests.pictures import untrusted_images
from manifests.runtime.workers import open_pool
from tests.doubles import curation
from tests.doubles.commands.misbehaviour import reads_oddly
from tests.doubles.models.restorers import NO_LIMITS
from train.restore import cluster_photos
from train.restore.outputs.log import LOG
from train.restore.restore_photos import restore

LOADED = "DOUBLES_LOADED"  # the variable with the path of a file that gets a line for each restorer that a node loads


def install(patch: pytest.MonkeyPatch, check: Any) -> None:
    """Installs the doubles in this process. A new worker process of a node calls `check` first."""
    patch.setattr(train.restore.restorers.face_restorer, "load_faces", curation.models)
    patch.setattr(train.restore.decisions.harm, "LIMITS", NO_LIMITS)
    patch.setattr(cluster_photos, "check_restorer", check)


def check_with_doubles(_: None, **arguments: Any) -> None:
    """Does in a worker process of a node what `check_restorer` does. Before this call, the process has no doubles."""
    patch, check, open_restorer = pytest.MonkeyPatch(), cluster_photos.check_restorer, cluster_photos.open_restorer
    install(patch, check)

    def open_and_tell(*arguments: Any, **options: Any) -> Any:
        with Path(os.environ[LOADED]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return open_restorer(*arguments, **options)

    patch.setattr(cluster_photos, "open_restorer", open_and_tell)
    check(None, **arguments)


def check_with_odd_reader(_: None, **arguments: Any) -> None:
    """Calls `check_with_doubles`. A reader process misbehaves when it reads a photo of an odd size."""
    read_oddly(pytest.MonkeyPatch())
    check_with_doubles(None, **arguments)


def read_oddly(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(untrusted_images, "open_pool", lambda workers: open_pool(workers, reads_oddly))


def restore_into(out: str, references: list[Path], checkpoint: Path, **options: Any) -> tuple[Any, ...]:
    """Restores the folder `in` of the current folder.

    Returns everything that a user gets: the outcomes, the log, the files with their times, the notices and the faces.
    """
    notices, faces = list[str](), list[Any]()

    def add(path: Path, *arrays: Any) -> None:
        faces.append((path, [getattr(array, "crops", array).tolist() for array in arrays]))

    rows = restore(
        [Path("in")], references, checkpoint, Path(out), say=notices.append, on_face=add, limited=True, **options
    )
    log = (Path(out) / LOG).read_text().replace(f'"{out}/', '"')
    files = {path.relative_to(out): path for path in Path(out).rglob("*") if path.is_file() and path.name != LOG}
    results = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files.items()}
    return [replace(row, output=None) for row in rows], log, results, notices, faces
