"""Chooses the faces, targets and references of a snapshot.

The database joins and sorts the tables of the ledger, and writes what does not fit in memory into temporary files.
Python reads the result a few rows at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.runtime.files import hash_config
from train.data.snapshot import SnapshotConfig

if TYPE_CHECKING:
    from manifests.ledger.ledger import Ledger

# All faces that can be in a snapshot, numbered in the order of their ids.
_USABLE = """
SELECT row_number() OVER (ORDER BY f.face_id) AS number, f.face_id, s.identity_id, s.split, f.upsample, f.landmarks5,
       p.width, p.height, f.shard, f.shard_row
FROM faces f JOIN splits s USING (face_id) JOIN photos p USING (photo_id)
WHERE f.status = 'ok' AND s.status = 'ok' AND f.duplicate_of IS NULL AND f.shard IS NOT NULL
"""
# A row for each reference of a target. `place` is the place of the reference in the target's list `pairs.refs`, from 1.
_LISTED = """
SELECT t.number AS target, r.number AS ref, listed.place
FROM (SELECT target, unnest(refs) AS ref, generate_subscripts(refs, 1) AS place FROM pairs) AS listed
JOIN usable t ON t.face_id = listed.target JOIN usable r ON r.face_id = listed.ref
WHERE listed.target <> listed.ref
"""
# Finds the first reference that shows another person, or that brings a face of another split into the training.
_WRONG = """
SELECT t.face_id, r.face_id, r.identity_id <> t.identity_id, r.split
FROM listed l JOIN usable t ON t.number = l.target JOIN usable r ON r.number = l.ref
WHERE r.identity_id <> t.identity_id OR (t.split = 'train' AND r.split <> 'train')
ORDER BY l.target, l.place LIMIT 1
"""
# The value of `upsample` in the ledger is for a crop of 512 px.
_TARGETS = """
SELECT number AS target FROM usable
WHERE number IN (SELECT target FROM listed) AND upsample::DOUBLE * ? / 512 <= ?
"""
# Some faces with a row in the table `pairs` are no targets. The queries count these faces for each reason.
_LEFT_OUT = {
    "not_in_a_split": "SELECT count(*) FROM pairs WHERE target NOT IN (SELECT face_id FROM usable)",
    "no_reference": "SELECT count(*) FROM usable WHERE face_id IN (SELECT target FROM pairs) "
    "AND number NOT IN (SELECT target FROM listed)",
    "too_small_in_its_photo": "SELECT (SELECT count(DISTINCT target) FROM listed) - (SELECT count(*) FROM targets)",
}
_NUMBERED = """
SELECT number, (row_number() OVER (ORDER BY number) - 1)::INTEGER AS row
FROM (SELECT target AS number FROM targets UNION SELECT ref FROM listed SEMI JOIN targets USING (target))
"""
_CHOSEN = """
WITH refs AS (
    SELECT l.target AS number, list(n.row ORDER BY l.place) AS refs
    FROM listed l SEMI JOIN targets USING (target) JOIN numbered n ON n.number = l.ref
    GROUP BY l.target
)
SELECT row, face_id, (dense_rank() OVER (ORDER BY identity_id) - 1)::INTEGER AS person, identity_id, split,
       refs IS NOT NULL AS is_target, coalesce(refs, []) AS refs, upsample, landmarks5, width, height, shard, shard_row
FROM numbered JOIN usable USING (number) LEFT JOIN refs USING (number)
"""
_STREAMED = """
SELECT face_id, person, split, is_target, refs, upsample, landmarks5, width, height, shard, shard_row
FROM chosen ORDER BY row
"""
_TRAINING_ONLY = """
SELECT face_id FROM chosen
WHERE split = 'train' AND row NOT IN (SELECT unnest(refs) FROM chosen WHERE split <> 'train')
ORDER BY row
"""


def choose_faces(ledger: Ledger, config: SnapshotConfig) -> dict[str, Any]:
    """Chooses the faces of a snapshot, and returns the counts that `plan_snapshot` returns.

    The other functions of this module read the chosen faces as long as the ledger is open. Raises BadInput if decisions
    are not applied yet, or if there is no training target. Raises LedgerBroken if a target has a reference of another
    person, or if a training target has a reference in another split.
    """
    check_decisions_applied(ledger)
    ledger.make_temporary_table("usable", _USABLE)
    ledger.make_temporary_table("listed", _LISTED)
    for target, reference, is_stranger, split in ledger.query(_WRONG).iter_rows():
        if is_stranger:
            raise LedgerBroken(
                f"Face {target} has a reference of another person, {reference}: run `likeness curate` again."
            )
        raise LedgerBroken(
            f"Training face {target} has the reference {reference}, which is in the split {split}: run "
            "`likeness curate` again."
        )
    ledger.make_temporary_table("targets", _TARGETS, config.size, config.max_upsample)
    ledger.make_temporary_table("numbered", _NUMBERED)
    ledger.make_temporary_table("chosen", _CHOSEN)
    counts_left_out = {why: int(ledger.query(sql).item()) for why, sql in _LEFT_OUT.items()}
    left_out = {why: count for why, count in counts_left_out.items() if count}
    rows = ledger.query(
        "SELECT split, count(*), count(*) FILTER (is_target), count(DISTINCT person) FROM chosen GROUP BY split"
    ).rows()
    targets = {split: count for split, _, count, _ in rows if count}
    if "train" not in targets:
        raise BadInput(
            "No face of the training split can be a target"
            + (f" ({', '.join(f'{n} {why}' for why, n in sorted(left_out.items()))})" if left_out else "")
            + ": a target needs another photo of the same person. Add photos and run `likeness curate` again."
        )
    people = {split: count for split, _, _, count in rows}
    return {"faces": sum(row[1] for row in rows), "targets": targets, "people": people, "left_out": left_out}


def stream_faces(ledger: Ledger) -> Iterator[pa.RecordBatch]:
    """Returns the chosen faces in the order of their ids, in batches.

    The columns are face_id, person (the place of the person in `list_people`), split, is_target, refs (rows of the
    snapshot), upsample, landmarks5 (pixels of the photo), width and height (of the photo), shard and shard_row.
    """
    return ledger.stream(_STREAMED)


def list_people(ledger: Ledger) -> list[str]:
    """Returns the identity ids of the chosen faces, sorted."""
    return ledger.query("SELECT DISTINCT identity_id FROM chosen ORDER BY 1").to_series().to_list()


def list_training_targets(ledger: Ledger) -> list[str]:
    """Returns the face ids of the chosen training targets, sorted."""
    sql = "SELECT face_id FROM chosen WHERE is_target AND split = 'train' ORDER BY row"
    return ledger.query(sql).to_series().to_list()


def list_training_only(ledger: Ledger) -> list[str]:
    """Returns the chosen training faces that are no reference of a target in another split, sorted by their ids."""
    return ledger.query(_TRAINING_ONLY).to_series().to_list()


def hash_faces(batches: Iterable[pa.RecordBatch], people: list[str]) -> str:
    """Returns the sha256 of the chosen faces. The division into batches does not change the hash."""
    hashes = {"people": hashlib.sha256("\n".join(people).encode())}
    for batch in batches:
        for name in batch.schema.names:
            if name in ("shard", "shard_row"):  # the hash does not depend on the files of the embeddings
                continue
            column = batch.column(name)
            if pa.types.is_list(column.type):
                lengths = hashes.setdefault(f"length of {name}", hashlib.sha256())
                lengths.update(pc.list_value_length(column).to_numpy())
                column = column.flatten()
            column_hash = hashes.setdefault(name, hashlib.sha256())
            if pa.types.is_string(column.type):
                column_hash.update("".join(f"{text}\n" for text in column.to_pylist()).encode())
            else:
                column_hash.update(column.to_numpy(zero_copy_only=False).copy())
    return hash_config({name: value.hexdigest() for name, value in hashes.items()})
