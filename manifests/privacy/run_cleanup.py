"""Finds faces in the files of training runs, snapshots and benchmarks, and removes the faces from these files.

This module repeats names of files, because the package `manifests` must not import the package `train`. The names are
those of train/fit/log/logbook.py, train/evaluation/evaluate.py and train/benchmark/frozen_benchmark.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import LedgerBroken
from manifests.privacy.snapshot_cleanup import (
    find_rows,
    hash_crops,
    read_snapshot_table,
    rewrite_snapshot,
)
from manifests.runtime.snapshot_files import BEFORE_PURGES, CROPS, FACES, FACTS, OLD_FACES

# a file with one of these suffixes may contain results for single faces
_RESULT_SUFFIXES = {".json", ".jsonl", ".csv", ".md", ".tex", ".txt", ".svg"}
_FILES_WITHOUT_FACES = {"config.json", FACTS, "stats.jsonl"}
_BENCHMARK_FILES = ("card.json", "cases.jsonl", "embeddings.npy")
# `likeness evaluate` keeps restored images and values in this SQLite file beside its results
EVALUATION_CACHE = "evaluation-cache.sqlite"
_IMAGES = "-images"  # `likeness evaluate --keep-images` writes <face_id>.png into <result>-images/<number>/


@dataclass(frozen=True)
class FacesInRun:
    """The searched faces in one snapshot, with the run and the checkpoints that were trained on the snapshot."""

    run: str  # Folder of the run, or of the snapshot if no run was trained on it.
    faces: int  # Number of searched faces in the snapshot.
    trained: int  # Number of these faces in the training split.
    checkpoints: tuple[str, ...]  # Folders of the checkpoints that were trained on searched faces.
    pixels: tuple[str, ...]  # The sha256 of the pixels of each crop of a searched face in the snapshot.


def find_faces_in_runs(folders: Iterable[Path], faces: Collection[str]) -> list[FacesInRun]:
    """Returns one item for each snapshot below `folders` that contains one of `faces`, which are face ids."""
    wanted, finds = set(faces), []
    places = list(_walk_folders(folders))
    runs_of: dict[str, list[Path]] = {}  # maps the hash of a snapshot to the folders of its runs
    for place, names in places:
        if "config.json" in names and (snapshot_hash := _read_snapshot_hash(place)) is not None:
            runs_of.setdefault(snapshot_hash, []).append(place)
    for place, names in places:
        if not _has_snapshot(names):
            continue
        table = read_snapshot_table(place)
        rows = np.flatnonzero(find_rows(table, wanted))
        if not len(rows):
            continue
        pixels = hash_crops(place, table, rows)
        trained = table["split"].take(pa.array(rows)).to_pylist().count("train")
        facts = json.loads((place / FACTS).read_bytes())
        hashes = (str(facts.get("hash")), *facts.get(BEFORE_PURGES, ()))
        runs = [run for snapshot_hash in hashes for run in runs_of.get(snapshot_hash, [])]
        checkpoints = sorted(str(path) for run in runs for path in run.glob("checkpoint-*")) if trained else []
        finds.append(FacesInRun(str(runs[0] if runs else place), len(rows), trained, tuple(checkpoints), pixels))
    return finds


def remove_faces_from_runs(
    folders: Iterable[Path], faces: Collection[str], people: Collection[str] = ()
) -> Counter[str]:
    """Remove these face ids from every snapshot, benchmark and run below `folders`.

    All sample grids and pages are removed, because they do not say which faces they show. All restored images and
    caches of evaluations are removed, because they do not say which references were used. Another file with results is
    removed if it contains one of the face ids, or one of the identity ids in `people`. A folder that a killed process
    left unfinished is completed or removed. Returns the number of removed or rewritten items of each kind.
    """
    wanted, counts = set(faces), Counter[str]()
    for place, _ in list(_walk_folders(folders)):
        _finish_killed_writes(place)
    for place, names in list(_walk_folders(folders)):
        if _has_snapshot(names) and rewrite_snapshot(place, wanted):
            counts["snapshots"] += 1
        if "config.json" in names and _read_snapshot_hash(place) is not None:
            counts += _clean_run(place, wanted | set(people))
        if place.parent.name.endswith(_IMAGES):
            counts += _remove_restored_images(place)
        if any(name.startswith(EVALUATION_CACHE) for name in names):
            remove_evaluation_cache(place)
            counts["evaluation caches"] += 1
        if "faces.jsonl" in names and _contains_any(place / "faces.jsonl", wanted):
            _remove_benchmark(place)
            counts["benchmarks"] += 1
    return counts


def remove_evaluation_cache(folder: Path) -> None:
    """Remove the cache of evaluations from a folder, and the journal of SQLite that a killed process may have left."""
    for path in sorted(folder.glob(f"{EVALUATION_CACHE}*")):
        path.unlink(missing_ok=True)


def _walk_folders(folders: Iterable[Path]) -> Iterator[tuple[Path, set[str]]]:
    """Yields `folders` and each folder below them once, with the names of the files in the folder."""
    known: set[str] = set()
    for folder in folders:
        for place, _, names in os.walk(folder):
            if (real := os.path.realpath(place)) not in known:
                known.add(real)
                yield Path(place), set(names)


def _has_snapshot(names: set[str]) -> bool:
    """Returns whether a folder with these files is a snapshot of this or an earlier version of Likeness.

    snapshot.json alone is not enough, because other programs also write files with this name.
    """
    return FACTS in names and not names.isdisjoint({FACES, OLD_FACES, CROPS})


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise LedgerBroken(
            f"{path} cannot be read, so Likeness cannot know which faces the file names. Remove the file, and "
            "remove the result that the file belongs to."
        ) from None


def _read_snapshot_hash(run: Path) -> str | None:
    """Returns the hash of the snapshot that a run was trained on. Returns None if the folder is not a run."""
    try:
        return str(json.loads((run / "config.json").read_bytes())["snapshot"]["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _finish_killed_writes(folder: Path) -> None:
    """Rename each complete rewritten snapshot to its final name.

    Remove all other temporary folders of killed processes.
    """
    for temporary in sorted(folder.glob(".*.tmp")):
        if not temporary.is_dir():
            continue
        if temporary.name.endswith(".purged.tmp") and (temporary / FACTS).is_file():
            target = folder / temporary.name.removeprefix(".").removesuffix(".purged.tmp")
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        else:
            shutil.rmtree(temporary)


def _clean_run(run: Path, ids: set[str]) -> Counter[str]:
    """Remove all image sheets and pages of a run, and the results that contain one of the ids. Returns the numbers."""
    counts = Counter[str]()
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        has_results = path.suffix in _RESULT_SUFFIXES and path.name not in _FILES_WITHOUT_FACES
        has_pictures = (
            path.suffix == ".html"
            or (path.suffix == ".png" and path.parent == run / "samples")
            or (has_results and b"data:image/" in path.read_bytes())  # the file is a sheet of restored photos
        )
        has_ids = has_results and _contains_any(path, ids)
        if path.suffix == ".parquet":
            has_ids = any(
                str(value) in ids for column in _read_table(path).itercolumns() for value in _read_strings(column)
            )
        if has_pictures or has_ids:
            path.unlink()
            counts["sheets and pages" if has_pictures else "results by face"] += 1
    return counts


def _remove_restored_images(folder: Path) -> Counter[str]:
    """Remove the restored images that an evaluation wrote into a folder, and return the number of images."""
    images = sorted(folder.glob("*.png"))
    for path in images:
        path.unlink()
    return Counter({"restored images": len(images)}) if images else Counter()


def _read_strings(column: pa.ChunkedArray) -> list[Any]:
    """Returns the distinct values of a column, or [] if the values are not strings."""
    return list(column.unique().to_pylist()) if pa.types.is_string(column.type) else []


def _contains_any(path: Path, ids: set[str]) -> bool:
    """Returns whether the bytes of a file contain one of the ids."""
    data = path.read_bytes()
    return any(one_id.encode() in data for one_id in ids)


def _remove_benchmark(folder: Path) -> None:
    """Remove the files of a benchmark, and then the folder of the benchmark if no other file is left."""
    for name in _BENCHMARK_FILES:
        (folder / name).unlink(missing_ok=True)
    for part in ("pictures", "lq"):
        shutil.rmtree(folder / part, ignore_errors=True)
    # this file is removed last, because with this file the next call recognizes a benchmark that is half removed
    (folder / "faces.jsonl").unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
