"""Finds removed faces in the files of training runs, snapshots and benchmarks, and removes them from there.

This file knows the layout of a run (train/data/snapshot.py, train/fit/logbook.py, train/evaluation/evaluate.py) and
the layout of a benchmark (train/benchmark/frozen_benchmark.py), but it imports nothing from train.
"""

from __future__ import annotations

import hashlib
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
from manifests.runtime.files import hash_config, sha256_file

# the files of a snapshot
FACTS, FACES, CROPS = "snapshot.json", "faces.parquet", "crops.npy"
# key of a snapshot's facts: the list of the snapshot's hashes before each purge, which its runs still name
BEFORE_PURGES = "before_purges"

_RESULT_SUFFIXES = {".json", ".jsonl", ".csv", ".md", ".tex", ".txt", ".svg"}  # these files may hold results by face
_FILES_WITHOUT_FACES = {"config.json", FACTS, "stats.jsonl"}
_BENCHMARK_FILES = ("card.json", "cases.jsonl", "embeddings.npy")


@dataclass(frozen=True)
class FacesInRun:
    """How many of some faces one run, or a snapshot without a run, holds, and where."""

    run: str  # folder
    faces: int  # how many of the faces are in the snapshot
    trained: int  # how many of these are in the training split
    checkpoints: tuple[str, ...]  # folders of the checkpoints that were trained on them
    pixels: tuple[str, ...]  # sha256 of their rows in crops.npy


def find_faces_in_runs(folders: Iterable[Path], faces: Collection[str]) -> list[FacesInRun]:
    """Returns the snapshots below `folders` that hold any of these face ids, with the checkpoints trained on them."""
    wanted, finds = set(faces), []
    places = list(_walk_folders(folders))
    runs_of: dict[str, list[Path]] = {}  # snapshot hash -> folders of the runs that were trained on the snapshot
    for place, names in places:
        if "config.json" in names and (snapshot_hash := _read_snapshot_hash(place)) is not None:
            runs_of.setdefault(snapshot_hash, []).append(place)
    for place, names in places:
        if not {FACTS, FACES} <= names:
            continue
        table = _read_table(place / FACES, ["face_id", "split"]).to_pydict()
        rows = [row for row, face in enumerate(table["face_id"]) if face in wanted]
        if not rows:
            continue
        crops = np.load(place / CROPS, mmap_mode="r") if (place / CROPS).is_file() else []
        pixels = tuple(
            hashlib.sha256(np.ascontiguousarray(crops[row]).tobytes()).hexdigest() for row in rows if row < len(crops)
        )
        trained = sum(table["split"][row] == "train" for row in rows)
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

    Sample grids and pages show pictures without names, so all of them are removed. Results by face are removed if
    they name a face id or one of the identity ids `people`. Files that a killed process left unfinished are finished
    or removed. Returns how many things of each kind were removed or rewritten.
    """
    wanted, counts = set(faces), Counter[str]()
    for place, _ in list(_walk_folders(folders)):
        _finish_killed_writes(place)
    for place, names in list(_walk_folders(folders)):
        if {FACTS, FACES} <= names and _rewrite_snapshot(place, wanted):
            counts["snapshots"] += 1
        if "config.json" in names and _read_snapshot_hash(place) is not None:
            counts += _clean_run(place, wanted | set(people))
        if "faces.jsonl" in names and _names_any(place / "faces.jsonl", wanted):
            _remove_benchmark(place)
            counts["benchmarks"] += 1
    return counts


def _walk_folders(folders: Iterable[Path]) -> Iterator[tuple[Path, set[str]]]:
    """Yields each folder below these folders once, with the names of its files."""
    known: set[str] = set()
    for folder in folders:
        for place, _, names in os.walk(folder):
            if (real := os.path.realpath(place)) not in known:
                known.add(real)
                yield Path(place), set(names)


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException):
        raise LedgerBroken(
            f"{path} cannot be read, so Likeness cannot know whose faces it names. Remove the file, and the snapshot "
            "or result that it belongs to."
        ) from None


def _read_snapshot_hash(run: Path) -> str | None:
    """Returns the hash of the snapshot that a run was trained on, or None for a folder that is no run."""
    try:
        return str(json.loads((run / "config.json").read_bytes())["snapshot"]["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _finish_killed_writes(folder: Path) -> None:
    """Put a rewritten snapshot in place if it is complete; remove other temporary folders of killed processes."""
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
    """Remove the image sheets and pages of a run, and its results that name an id. Returns the counts of both."""
    counts = Counter[str]()
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        has_results = path.suffix in _RESULT_SUFFIXES and path.name not in _FILES_WITHOUT_FACES
        has_pictures = (
            path.suffix == ".html"
            or (path.suffix == ".png" and path.parent == run / "samples")
            or (has_results and b"data:image/" in path.read_bytes())  # a sheet of restored photos
        )
        has_ids = has_results and _names_any(path, ids)
        if path.suffix == ".parquet" and path.name != FACES:
            has_ids = any(str(value) in ids for column in _read_table(path).itercolumns() for value in _texts(column))
        if has_pictures or has_ids:
            path.unlink()
            counts["sheets and pages" if has_pictures else "results by face"] += 1
    return counts


def _texts(column: pa.ChunkedArray) -> list[Any]:
    """Returns the distinct values of a column of strings. Returns [] for other columns."""
    return list(column.unique().to_pylist()) if pa.types.is_string(column.type) else []


def _names_any(path: Path, ids: set[str]) -> bool:
    """Returns whether the bytes of a file contain one of the ids."""
    data = path.read_bytes()
    return any(one_id.encode() in data for one_id in ids)


def _remove_benchmark(folder: Path) -> None:
    """Remove the files of a benchmark, and its folder if no other file is in there."""
    for name in _BENCHMARK_FILES:
        (folder / name).unlink(missing_ok=True)
    for part in ("pictures", "lq"):
        shutil.rmtree(folder / part, ignore_errors=True)
    (
        folder / "faces.jsonl"
    ).unlink()  # last: after a kill, this file shows the next call that the benchmark is not gone
    if not any(folder.iterdir()):
        folder.rmdir()


def _rewrite_snapshot(folder: Path, faces: set[str]) -> bool:
    """Write a snapshot again without these faces, and return whether it held any of them.

    The new snapshot appears complete or not at all. A snapshot without any other face is removed.
    """
    table = _read_table(folder / FACES)
    face_ids = table.column("face_id").to_pylist()
    kept_rows = [row for row, face in enumerate(face_ids) if face not in faces]
    if len(kept_rows) == len(face_ids):
        return False
    if not kept_rows:
        shutil.rmtree(folder)
        return True

    # rows get new numbers, so the references, which are row numbers, change too
    new_row_of = {row: new_row for new_row, row in enumerate(kept_rows)}
    rows: list[dict[str, Any]] = table.take(kept_rows).to_pylist()
    for new_row, row in enumerate(rows):
        row["row"] = new_row
        row["references"] = [new_row_of[ref] for ref in row["references"] if ref in new_row_of]
        row["is_target"] = bool(row["is_target"] and row["references"])
    temporary = folder.with_name(f".{folder.name}.purged.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), temporary / FACES)

    # crops: uint8 (n, height, width, 3), copied row by row because they may be larger than memory
    if (folder / CROPS).is_file():
        crops = np.load(folder / CROPS, mmap_mode="r")
        new_crops = np.lib.format.open_memmap(
            temporary / CROPS, mode="w+", dtype=crops.dtype, shape=(len(kept_rows), *crops.shape[1:])
        )
        for new_row, row_number in enumerate(kept_rows):
            new_crops[new_row] = crops[row_number]
        new_crops.flush()
    for path in folder.iterdir():
        if path.name not in (FACES, CROPS, FACTS):
            shutil.copyfile(path, temporary / path.name)
    # the facts are written last: a temporary folder with this file is complete
    (temporary / FACTS).write_text(_make_facts(folder, temporary, rows), encoding="utf-8")
    shutil.rmtree(folder)
    temporary.rename(folder)
    return True


def _make_facts(folder: Path, temporary: Path, rows: list[dict[str, Any]]) -> str:
    """Returns the JSON of the rewritten snapshot's facts: new counts, new hashes, and the hash before the purge."""
    facts = json.loads((folder / FACTS).read_bytes())
    facts[BEFORE_PURGES] = [*facts.get(BEFORE_PURGES, ()), facts.pop("hash", None)]
    targets = Counter(row["split"] for row in rows if row["is_target"])
    people = Counter(split for _, split in {(row["identity_id"], row["split"]) for row in rows})
    facts["counts"] |= {"faces": len(rows), "targets": dict(targets), "people": dict(people)}
    facts["manifest"] = hash_config({"purged": facts["manifest"]})
    if (temporary / CROPS).is_file():
        facts["crops_sha256"] = sha256_file(temporary / CROPS)
    facts["hash"] = hash_config(facts)
    return json.dumps(facts, indent=2, sort_keys=True)
