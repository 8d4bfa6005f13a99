"""Training runs and benchmarks as files: what of removed faces lies in them, and how it is taken out.

Knows the layout of a RUN (train/data/snapshot.py, train/fit/logbook.py, train/evaluation/evaluate.py) and of a
benchmark (train/benchmark/frozen_benchmark.py) and imports nothing of them.
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

FACTS, FACES, CROPS = "snapshot.json", "faces.parquet", "crops.npy"
_TOLD = {".json", ".jsonl", ".csv", ".md", ".tex", ".txt", ".svg"}  # results by face
_BENCHMARK = ("card.json", "cases.jsonl", "embeddings.npy")
BEFORE_PURGES = "before_purges"  # of a snapshot's facts: the hashes by which its runs know it
_KEPT = {"config.json", FACTS, "stats.jsonl"}  # hold no face


@dataclass(frozen=True)
class FacesInRun:
    """What a run or a snapshot on its own holds of some faces."""

    run: str
    faces: int
    trained: int  # of them in the training split
    checkpoints: tuple[str, ...]  # whose weights were trained on them
    pixels: tuple[str, ...]  # sha256 of their rows of crops.npy


def _places(folders: Iterable[Path]) -> Iterator[tuple[Path, set[str]]]:
    """Every folder below, once, with the names of its files."""
    seen: set[str] = set()
    for folder in folders:
        for place, _, names in os.walk(folder):
            if (real := os.path.realpath(place)) not in seen:
                seen.add(real)
                yield Path(place), set(names)


def find_faces_in_runs(folders: Iterable[Path], faces: Collection[str]) -> list[FacesInRun]:
    """What snapshots below `folders` hold of `faces`, with the checkpoints of the runs that were trained on them."""
    wanted, found = set(faces), []
    places = list(_places(folders))
    runs: dict[str, list[Path]] = {}  # snapshot hash -> runs
    for place, names in places:
        if "config.json" in names and (of := _snapshot_of(place)) is not None:
            runs.setdefault(of, []).append(place)
    for place, names in places:
        if not {FACTS, FACES} <= names:
            continue
        table = _read(place / FACES, ["face_id", "split"]).to_pydict()
        rows = [row for row, face in enumerate(table["face_id"]) if face in wanted]
        if not rows:
            continue
        crops = np.load(place / CROPS, mmap_mode="r") if (place / CROPS).is_file() else []
        pixels = tuple(
            hashlib.sha256(np.ascontiguousarray(crops[row]).tobytes()).hexdigest() for row in rows if row < len(crops)
        )
        trained = sum(table["split"][row] == "train" for row in rows)
        facts = json.loads((place / FACTS).read_bytes())
        owners = [run for of in (str(facts.get("hash")), *facts.get(BEFORE_PURGES, ())) for run in runs.get(of, [])]
        checkpoints = sorted(str(path) for run in owners for path in run.glob("checkpoint-*")) if trained else []
        found.append(FacesInRun(str(owners[0] if owners else place), len(rows), trained, tuple(checkpoints), pixels))
    return found


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException):
        raise LedgerBroken(f"{path} cannot be read, so nobody knows whom it shows: remove that snapshot.") from None


def _snapshot_of(run: Path) -> str | None:
    try:
        return str(json.loads((run / "config.json").read_bytes())["snapshot"]["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_faces_from_runs(
    folders: Iterable[Path], faces: Collection[str], people: Collection[str] = ()
) -> Counter[str]:
    """Take the faces out of every snapshot, and remove the sample sheets, pages, results by face and benchmarks that
    may show them or name the `people`. What was begun before is finished. Answers how many of what went."""
    wanted, done = set(faces), Counter[str]()
    for place, _ in list(_places(folders)):
        for left in sorted(place.glob(".*.tmp")):  # half-written snapshots and checkpoints of killed processes
            if left.is_dir():
                whole = left.name.endswith(".purged.tmp") and (left / FACTS).is_file()
                if whole:
                    target = place / left.name.removeprefix(".").removesuffix(".purged.tmp")
                    shutil.rmtree(target, ignore_errors=True)
                    left.rename(target)
                else:
                    shutil.rmtree(left)
    for place, names in list(_places(folders)):
        if {FACTS, FACES} <= names and _thin_snapshot(place, wanted):
            done["snapshots"] += 1
        if "config.json" in names and _snapshot_of(place) is not None:
            done += _clean_run(place, wanted | set(people))
        if "faces.jsonl" in names and _names_any(place / "faces.jsonl", wanted):
            for name in _BENCHMARK:
                (place / name).unlink(missing_ok=True)
            for part in ("pictures", "lq"):
                shutil.rmtree(place / part, ignore_errors=True)
            (place / "faces.jsonl").unlink()  # last: by it a purge that was killed knows the benchmark again
            done["benchmarks"] += 1
            if not any(place.iterdir()):
                place.rmdir()
    return done


def _clean_run(run: Path, named: set[str]) -> Counter[str]:
    """Sheets and pages hold pictures without names, so all of them go; they can be made again."""
    done = Counter[str]()
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        shows = path.suffix == ".html" or (path.suffix == ".png" and path.parent == run / "samples")
        told = path.suffix in _TOLD and path.name not in _KEPT
        shows = shows or (told and b"data:image/" in path.read_bytes())  # a sheet of restored photos
        tells = told and _names_any(path, named)
        if path.suffix == ".parquet" and path.name != FACES:
            tells = any(str(value) in named for column in _read(path).itercolumns() for value in _texts(column))
        if shows or tells:
            path.unlink()
            done["sheets and pages" if shows else "results by face"] += 1
    return done


def _texts(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column of strings, each once."""
    return list(column.unique().to_pylist()) if pa.types.is_string(column.type) else []


def _names_any(path: Path, named: set[str]) -> bool:
    text = path.read_bytes()
    return any(one.encode() in text for one in named)


def _thin_snapshot(folder: Path, faces: set[str]) -> bool:
    """Write a snapshot again without the faces, whole or not at all; nothing is left of one that held no other."""
    table = _read(folder / FACES)
    ids = table.column("face_id").to_pylist()
    kept = [row for row, face in enumerate(ids) if face not in faces]
    if len(kept) == len(ids):
        return False
    if not kept:
        shutil.rmtree(folder)
        return True
    number = {row: place for place, row in enumerate(kept)}
    rows: list[dict[str, Any]] = table.take(kept).to_pylist()
    for place, row in enumerate(rows):
        row["row"] = place
        row["references"] = [number[ref] for ref in row["references"] if ref in number]
        row["is_target"] = bool(row["is_target"] and row["references"])
    temporary = folder.with_name(f".{folder.name}.purged.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), temporary / FACES)
    if (folder / CROPS).is_file():
        crops = np.load(folder / CROPS, mmap_mode="r")
        fewer = np.lib.format.open_memmap(
            temporary / CROPS, mode="w+", dtype=crops.dtype, shape=(len(kept), *crops.shape[1:])
        )
        for place, before in enumerate(kept):
            fewer[place] = crops[before]
        fewer.flush()
    for path in folder.iterdir():
        if path.name not in (FACES, CROPS, FACTS):
            shutil.copyfile(path, temporary / path.name)
    (temporary / FACTS).write_text(_facts(folder, temporary, rows), encoding="utf-8")  # last: it says that all is there
    shutil.rmtree(folder)
    temporary.rename(folder)
    return True


def _facts(folder: Path, temporary: Path, rows: list[dict[str, Any]]) -> str:
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
