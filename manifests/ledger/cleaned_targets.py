"""Finds the cleaned versions of training targets, and reads the history of a face.

`likeness iterate` restores blurred, noisy or blocky training targets. A restored target is called a cleaned version. A
training or an export uses cleaned versions if the user asks for them, and only for faces of the training split. All
other code reads the original crops, which never change.
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
HISTORY_TABLES = ("versions", "training_images")  # the tables that contain the history of a face

_NEWEST_ITERATION = """
    SELECT split_part(unit, '/', 1) AS iteration FROM stages
    WHERE stage = 'iterate' AND unit NOT LIKE '%/strayed' ORDER BY finished DESC, unit LIMIT 1"""

_BEST_VERSIONS = """
    SELECT v.* FROM versions v JOIN splits s USING (face_id) JOIN faces f USING (face_id)
    WHERE v.iteration = ? AND v.status = 'ok' AND v.round < coalesce(?::INTEGER, 2147483647)
        AND s.split = 'train' AND s.status = 'ok' AND f.status = 'ok'
        AND v.face_id NOT IN (SELECT unnest(refs) FROM pairs WHERE split <> 'train')
    QUALIFY row_number() OVER (PARTITION BY v.face_id ORDER BY v.round DESC) = 1 ORDER BY v.face_id"""

_STRAY_VERSIONS = """
    SELECT v.* FROM versions v LEFT JOIN splits s ON s.face_id = v.face_id AND s.split = 'train'
    WHERE v.status = 'ok' AND s.face_id IS NULL ORDER BY v.iteration, v.round, v.face_id"""


def version_path(dataset: Path, iteration: str, round_: int, face_id: str) -> Path:
    """Returns the path of the PNG file of a cleaned version.

    The size of the image is that of the iteration's recipe.
    """
    return dataset / VERSIONS_FOLDER / iteration / str(round_) / face_id[:2] / f"{face_id}.png"


def find_version_files(dataset: Path, face_id: str) -> list[Path]:
    """Returns the files of all cleaned versions of a face, from all iterations."""
    return sorted((dataset / VERSIONS_FOLDER).glob(f"*/*/{face_id[:2]}/{face_id}.png"))


def find_newest_iteration(ledger: Ledger) -> str | None:
    """Returns the id of the iteration that recorded a step most recently, or None if no iteration exists."""
    frame = ledger.query(_NEWEST_ITERATION)
    return str(frame["iteration"][0]) if len(frame) else None


def select_best_versions(ledger: Ledger, iteration: str, before: int | None = None) -> dict[str, CleanedVersion]:
    """Returns a dict that maps face id to the newest accepted version of the face.

    Faces without an accepted version are not in the dict. With `before`, only rounds with a lower number count. Cleaned
    pictures must not get into val or test. The dict therefore leaves out the faces of val and test. With --split-by
    photos, training faces can be references of a target in val or test. The dict leaves out these training faces too.
    """
    rows = ledger.query(_BEST_VERSIONS, iteration, before)
    return {row["face_id"]: CleanedVersion(**row) for row in rows.iter_rows(named=True)}


def find_stray_versions(ledger: Ledger) -> list[CleanedVersion]:
    """Returns the rows of the accepted versions of faces outside the training split.

    In the returned rows, `status` is "dropped", `reason` is NOT_IN_TRAIN and `sha256` is None. The ledger is unchanged.
    """
    return [
        replace(CleanedVersion(**row), sha256=None, status="dropped", reason=NOT_IN_TRAIN)
        for row in ledger.query(_STRAY_VERSIONS).iter_rows(named=True)
    ]


def read_history(ledger: Ledger, faces: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Returns a dict that maps a face id to the attempts to clean the face, followed by the rounds that trained on the
    face.

    The attempts are ordered by iteration and round, and so are the training rounds. An attempt has the kind `versions`
    and the columns of the table `versions`. A training round has the kind `training_images` and the columns of the
    table `training_images`. The `version` of a training round is the round whose cleaned version was used, or None for
    the original crop.
    """
    face_ids = list(faces)
    history: dict[str, list[dict[str, Any]]] = {}
    for table in HISTORY_TABLES:
        sql = f"SELECT * FROM {table} WHERE list_contains(?, face_id) ORDER BY iteration, round"
        for row in ledger.query(sql, face_ids).iter_rows(named=True):
            history.setdefault(row["face_id"], []).append({"kind": table, **row})
    return history


def describe_history(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence for each attempt to clean a face, and for each iteration that trained on the face."""
    sentences = []
    for row in history:
        if row["kind"] == "versions":
            metrics = json.loads(row["metrics"])
            sharpness = " to ".join(
                f"{metrics[when]['sharpness']:.2f}" for when in ("before", "after") if when in metrics
            )
            identity = f", identity {metrics['identity']:.2f}" if "identity" in metrics else ""
            result = "kept" if row["status"] == "ok" else f"not kept ({row['reason']})"
            sentences.append(
                f"the crop is {row['defect']}; round {row['round']} of iteration {row['iteration']} cleaned it, and "
                f"the cleaned version was {result} (sharpness {sharpness}{identity})"
            )
    rounds: dict[str, list[str]] = {}
    for row in history:
        if row["kind"] == "training_images":
            image = "the original" if row["version"] is None else f"the cleaned version of round {row['version']}"
            rounds.setdefault(row["iteration"], []).append(f"round {row['round']} on {image}")
    return sentences + [
        f"iteration {iteration} trained on this face in {', '.join(images)}" for iteration, images in rounds.items()
    ]
