"""Removes faces from the snapshot of a training run.

manifests/runtime/snapshot_files.py defines the files of a snapshot. train/data/snapshot.py explains the columns.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import LedgerBroken
from manifests.runtime.array_file import ArrayFile
from manifests.runtime.files import ARRAY_ERRORS, hash_config, sha256_file
from manifests.runtime.snapshot_files import (
    BEFORE_PURGES,
    CROPS,
    FACES,
    FACTS,
    LARGE_CROPS,
    ROW_ARRAYS,
    VERSION,
    read_codes,
    read_dictionary,
    read_faces,
    to_array,
)

_ROWS = 64  # number (ours) of rows of an array that are copied in one step


def read_snapshot_table(folder: Path) -> pa.Table:
    """Returns the table of a snapshot's faces. A value is read from the file only when it is needed.

    Raises LedgerBroken if the table cannot be read, or if another version of Likeness made the snapshot.
    """
    try:
        version = json.loads((folder / FACTS).read_bytes()).get("version")
        if version == VERSION:
            return read_faces(folder / FACES)
    except (OSError, ValueError, AttributeError):
        raise LedgerBroken(
            f"{folder / FACES} cannot be read, so Likeness cannot know which faces the snapshot contains. Remove the "
            f"folder {folder}."
        ) from None
    raise LedgerBroken(
        f"Another version of Likeness made the snapshot {folder}, so Likeness cannot know which faces the snapshot "
        "contains. Remove this folder."
    )


def find_rows(table: pa.Table, faces: Collection[str]) -> np.ndarray:
    """Returns a bool array (n,) that is true for the rows of a snapshot's table with one of these face ids."""
    wanted = pa.array(sorted(faces), pa.string())
    return pc.is_in(table["face_id"], value_set=wanted).to_numpy()


def hash_crops(folder: Path, table: pa.Table, rows: np.ndarray) -> tuple[str, ...]:
    """Returns the sha256 of the pixels of each crop of these rows. The crops are in crops.npy and in large_crops.npy.

    Raises LedgerBroken if one of these files cannot be read.
    """
    large_rows = to_array(table["large_row"])[rows]
    hashes: list[str] = []
    for name, wanted in ((CROPS, rows), (LARGE_CROPS, large_rows[large_rows >= 0])):
        if (folder / name).is_file():
            crops = _open_array(folder / name)
            hashes += [hashlib.sha256(crops[row].tobytes()).hexdigest() for row in wanted.tolist()]
    return tuple(hashes)


def rewrite_snapshot(folder: Path, faces: Collection[str]) -> bool:
    """Write a snapshot again without these faces, and return whether the snapshot contained one of the faces.

    The new snapshot is never visible in a half-written state. A snapshot that contains only these faces is removed.
    Raises LedgerBroken if a file of the snapshot cannot be read.
    """
    table = read_snapshot_table(folder)
    keep = ~find_rows(table, faces)
    if keep.all():
        return False
    if not keep.any():
        shutil.rmtree(folder)
        return True
    temporary = folder.with_name(f".{folder.name}.purged.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    large_rows = to_array(table["large_row"])
    _write_table(table, keep, temporary / FACES)
    arrays = {name: np.flatnonzero(keep) for name in ROW_ARRAYS}
    arrays[LARGE_CROPS] = large_rows[keep & (large_rows >= 0)]
    for name, rows in arrays.items():
        if (folder / name).is_file():
            _copy_rows(folder / name, rows, temporary / name)
    for path in folder.iterdir():
        if path.name not in (FACES, FACTS, *arrays):
            shutil.copyfile(path, temporary / path.name)
    # this file is written last, so a temporary folder that contains it is complete
    (temporary / FACTS).write_text(_make_facts(folder, temporary), encoding="utf-8")
    shutil.rmtree(folder)
    temporary.rename(folder)
    return True


def _write_table(table: pa.Table, keep: np.ndarray, path: Path) -> None:
    """Writes the kept rows. The rows get new numbers, so the references, which are row numbers, change too."""
    new_rows = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
    large_rows = to_array(table["large_row"])
    has_large = keep & (large_rows >= 0)
    new_large_rows = np.where(has_large, np.cumsum(has_large) - 1, -1).astype(np.int32)
    # the new dictionaries contain only people and splits that still have a face
    used = {name: np.unique(read_codes(table[name])[keep]) for name in ("identity_id", "split")}
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        start = 0
        for batch in table.to_batches():
            here = slice(start, start + len(batch))
            start += len(batch)
            kept = batch.filter(pa.array(keep[here]))
            columns = {name: kept.column(name) for name in kept.schema.names}
            for name, codes in used.items():
                column = columns[name]
                new_codes = np.searchsorted(codes, column.indices.to_numpy())
                columns[name] = pa.DictionaryArray.from_arrays(
                    pa.array(new_codes, column.type.index_type), column.dictionary.take(pa.array(codes))
                )
            columns["references"], counts = _renumber(columns["references"], new_rows)
            columns["is_target"] = pa.array(columns["is_target"].to_numpy(zero_copy_only=False) & (counts > 0))
            columns["large_row"] = pa.array(new_large_rows[here][keep[here]])
            writer.write_batch(pa.record_batch([columns[name] for name in table.schema.names], schema=table.schema))


def _renumber(references: pa.ListArray, new_rows: np.ndarray) -> tuple[pa.ListArray, np.ndarray]:
    """Returns the lists of references with the new row numbers, without removed rows.

    Also returns the length of each list.
    """
    lengths = pc.list_value_length(references).to_numpy()
    values = new_rows[references.flatten().to_numpy()]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.bincount(owner[values >= 0], minlength=len(lengths))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[values >= 0])), counts


def _open_array(path: Path) -> np.ndarray:
    """Returns an array as a memory map. Raises LedgerBroken if the file cannot be read."""
    try:
        return np.load(path, mmap_mode="r")
    except ARRAY_ERRORS:
        raise LedgerBroken(
            f"{path} cannot be read, so Likeness cannot remove faces from the snapshot. Remove the folder "
            f"{path.parent}."
        ) from None


def _copy_rows(source: Path, rows: np.ndarray, target: Path) -> None:
    """Copies rows of an array in small steps, because the array may be larger than memory."""
    array = _open_array(source)
    with ArrayFile(target, array.dtype, array.shape[1:]) as file:
        for start in range(0, len(rows), _ROWS):
            file.append(array[rows[start : start + _ROWS]])


def _make_facts(folder: Path, temporary: Path) -> str:
    """Returns the facts of the new snapshot as JSON. The facts get new counts and hashes, and keep the old hash."""
    facts = json.loads((folder / FACTS).read_bytes())
    facts[BEFORE_PURGES] = [*facts.get(BEFORE_PURGES, ()), facts.pop("hash", None)]
    table = read_faces(temporary / FACES)
    splits, people = read_codes(table["split"]), read_codes(table["identity_id"])
    is_target = table["is_target"].to_numpy()
    targets, counts_of_people = {}, {}
    for code, split in enumerate(read_dictionary(table["split"])):
        counts_of_people[split] = len(np.unique(people[splits == code]))
        if count := int((is_target & (splits == code)).sum()):
            targets[split] = count
    facts["counts"] |= {"faces": len(table), "targets": targets, "people": counts_of_people}
    facts["manifest"] = hash_config({"purged": facts["manifest"]})
    if (temporary / CROPS).is_file():
        facts["crops_sha256"] = sha256_file(temporary / CROPS)
    facts["hash"] = hash_config(facts)
    return json.dumps(facts, indent=2, sort_keys=True)
