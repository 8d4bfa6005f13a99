"""Cleaned versions of training targets: where they lie, which is the best, and what a round was trained on.

A version stands in for a face of the training split alone, and only where a trainer or an export asks for it: whatever
else reads a crop reads the original, which never changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import CleanedVersion

VERSIONS_FOLDER = "versions"
NOT_IN_TRAIN = "not_in_train"
HISTORY_TABLES = ("versions", "training_images")  # of what is known of a face


def version_path(dataset: Path, iteration: str, round_: int, face_id: str) -> Path:
    """Where the PNG of a version lies, of the size that the iteration's recipe restores."""
    return dataset / VERSIONS_FOLDER / iteration / str(round_) / face_id[:2] / f"{face_id}.png"


def find_version_files(dataset: Path, face_id: str) -> list[Path]:
    """The files of every version of a face, of all iterations."""
    return sorted((dataset / VERSIONS_FOLDER).glob(f"*/*/{face_id[:2]}/{face_id}.png"))


def find_newest_iteration(ledger: Ledger) -> str | None:
    """The iteration that cleaned or trained last; None where there is none."""
    if not ledger.has_table("versions"):
        return None
    found = ledger.query(
        "SELECT split_part(unit, '/', 1) AS it FROM stages WHERE stage = 'iterate' AND unit NOT LIKE '%/strayed' "
        "ORDER BY finished DESC, unit LIMIT 1"
    )
    return str(found["it"][0]) if len(found) else None


def select_best_versions(ledger: Ledger, iteration: str, before: int | None = None) -> dict[str, CleanedVersion]:
    """The newest kept version of every training face, by face, of rounds earlier than `before` (None: of all).

    Never of a face that is not in the training split now, nor of one that a target of val or test has as a reference
    (under --split-by photos): a cleaned picture is no part of either.
    """
    rows = ledger.query(
        """SELECT v.* FROM versions v JOIN splits s USING (face_id) JOIN faces f USING (face_id)
           WHERE v.iteration = ? AND v.status = 'ok' AND v.round < coalesce(?::INTEGER, 2147483647)
             AND s.split = 'train' AND s.status = 'ok' AND f.status = 'ok'
             AND v.face_id NOT IN (SELECT unnest(refs) FROM pairs WHERE split <> 'train')
           QUALIFY row_number() OVER (PARTITION BY v.face_id ORDER BY v.round DESC) = 1 ORDER BY v.face_id""",
        iteration,
        before,
    )
    return {row["face_id"]: CleanedVersion(**row) for row in rows.iter_rows(named=True)}


def find_stray_versions(ledger: Ledger) -> list[CleanedVersion]:
    """Kept versions of faces that are not, or no longer, in the training split, as they should be: dropped."""
    if not ledger.has_table("versions"):
        return []
    rows = ledger.query(
        """SELECT v.* FROM versions v LEFT JOIN splits s ON s.face_id = v.face_id AND s.split = 'train'
           WHERE v.status = 'ok' AND s.face_id IS NULL ORDER BY v.iteration, v.round, v.face_id"""
    )
    return [
        replace(CleanedVersion(**row), sha256=None, status="dropped", reason=NOT_IN_TRAIN)
        for row in rows.iter_rows(named=True)
    ]


def read_history(ledger: Ledger, faces: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Every attempt to clean each of the faces, and every round that was trained on it, in order, by face.

    An attempt has the columns of `versions`; a round has iteration, round and `version`, None for the original.
    """
    if not ledger.has_table("versions"):
        return {}
    wanted = list(faces)
    found: dict[str, list[dict[str, Any]]] = {}
    for table in HISTORY_TABLES:
        sql = f"SELECT * FROM {table} WHERE list_contains(?, face_id) ORDER BY iteration, round"
        for row in ledger.query(sql, wanted).iter_rows(named=True):
            found.setdefault(row["face_id"], []).append({"kind": table, **row})
    return found


def describe_history(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `read_history` says of a face, in sentences: an attempt a line, and a line an iteration's rounds."""
    said = []
    for row in history:
        if row["kind"] == "versions":
            found = json.loads(row["metrics"])
            sharp = " to ".join(f"{found[when]['sharpness']:.2f}" for when in ("before", "after") if when in found)
            like = f", identity {found['identity']:.2f}" if "identity" in found else ""
            fate = "kept" if row["status"] == "ok" else f"not kept, {row['reason']}"
            said.append(
                f"cleaned as {row['defect']} by round {row['round']} of iteration {row['iteration']}: {fate} "
                f"(sharpness {sharp}{like})"
            )
    rounds: dict[str, list[str]] = {}
    for row in history:
        if row["kind"] == "training_images":
            what = "the original" if row["version"] is None else f"the version of round {row['version']}"
            rounds.setdefault(row["iteration"], []).append(f"round {row['round']} on {what}")
    return said + [f"iteration {iteration} was trained in {', '.join(of)}" for iteration, of in rounds.items()]
