"""Reads the sets of near-duplicates of the last search from the ledger, and finds the faces to search again.

A full search compares each face with its nearest faces. If few faces are new, only the new faces are compared with all
faces, and the result is the same. A new face can only push other faces out of a list of nearest faces, so two earlier
faces that were not copies cannot become copies. A new face can push a copy out of the list of an earlier face only if
the new face is at least as similar to the earlier face as the copy is. The sets in which this is possible are searched
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from curate.config import DedupeRules
from curate.people.clustering.components import label_components
from curate.people.copies.compare_with_all import COSINES_AT_ONCE
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face, Photo
from manifests.runtime.versions import code_version

# If more than the share MOST_NEW (ours) of the faces is new, all faces are searched again.
MOST_NEW = 0.05
_ROUNDING = 1e-5  # The last bits of a cosine depend on the number of rows that are multiplied together.


def describe_search(rules: DedupeRules, faces: Sequence[Face], photos: Mapping[str, Photo]) -> dict[str, Any]:
    """Returns the detail that the stage `dedupe` records. `read_earlier_sets` compares the details of two searches."""
    return {"rules": asdict(rules), "version": code_version(), "faces_sha256": _hash_faces(faces, photos)}


def read_earlier_sets(
    ledger: Ledger, rules: DedupeRules, faces: Sequence[Face], photos: Mapping[str, Photo]
) -> np.ndarray | None:
    """Returns the set of each face in the last search, int64 (n,), or None if all faces must be searched.

    A face that is new, or that a decision dropped, has the number -1. The ledger does not say to which set a dropped
    face belonged. All faces must be searched if the last search had other rules or was made by another version, if a
    face of the last search is gone or changed, or if many faces are new.
    """
    members = set(ledger.query("SELECT face_id FROM memberships")["face_id"])
    earlier = [
        face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION) or (face.status == "ok" and face.face_id in members)
        for face in faces
    ]
    known = [face for face, is_earlier in zip(faces, earlier, strict=True) if is_earlier]
    is_known = np.array(earlier, bool) & np.array([face.reason != DROPPED_BY_DECISION for face in faces], bool)
    if not len(faces) or (~is_known).mean() > MOST_NEW:
        return None
    if ledger.read_detail("dedupe") != describe_search(rules, known, photos):
        return None
    sets = np.full(len(faces), -1)
    representatives = [face.representative for face, is_set in zip(faces, is_known, strict=True) if is_set]
    sets[is_known] = np.unique(representatives, return_inverse=True)[1]
    return sets


def _hash_faces(faces: Sequence[Face], photos: Mapping[str, Photo]) -> str:
    """Returns a hash of everything that the search for near-duplicates reads. The order of the faces has no effect."""
    digest = hashlib.sha256()
    for face in sorted(faces, key=lambda face: face.face_id):
        photo = photos[face.photo_id]
        digest.update(f"{face.face_id} {face.crop_sha256} {face.shard} {face.shard_row} {face.phash} ".encode())
        digest.update(f"{face.box} {photo.photo_id} {photo.phash} {photo.width} {photo.height} ".encode())
    return digest.hexdigest()


def select_rows_to_search(faces: Sequence[Face], vectors: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Returns the rows of `faces` that must be compared with all faces, int64 (k,).

    `vectors` are the unit embeddings of the faces, float32 (n, d). `sets`, int64 (n,), are the earlier sets, as
    `read_earlier_sets` returns them.

    The rows are those of the new faces, and those of each set in which a new face may push a copy out of a list of
    nearest faces. All other faces in the photos of these faces are added, and then the sets of the added faces. The two
    additions are repeated until no face is added. The reason is that copies of one face in two photos can show that
    other faces of the two photos are also copies (companions.py).
    """
    n, new, known = len(faces), np.flatnonzero(sets < 0), np.flatnonzero(sets >= 0)
    _, first, photo = np.unique([face.photo_id for face in faces], return_index=True, return_inverse=True)
    _, first_of_set, number = np.unique(sets[known], return_index=True, return_inverse=True)
    same_photo = np.stack([np.arange(n), first[photo]], axis=1)
    same_set = np.stack([known, known[first_of_set[number]]], axis=1)
    linked = label_components(n, np.concatenate([same_photo, same_set]))
    start = np.concatenate([new, _find_rows_with_pushed_copies(vectors, sets, new)])
    return np.flatnonzero(np.isin(linked, linked[start]))


def _find_rows_with_pushed_copies(vectors: np.ndarray, sets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Returns the rows that are at least as similar to a new face as to the least similar face of their own set."""
    known = np.flatnonzero(sets >= 0)
    known = known[np.argsort(sets[known], kind="stable")]
    rows = known[np.bincount(sets[known])[sets[known]] > 1]
    if not len(rows):
        return rows
    lowest = []  # the lowest cosine of each row to the faces of its set
    for members in np.split(rows, np.flatnonzero(np.diff(sets[rows])) + 1):
        step = max(1, COSINES_AT_ONCE // len(members))
        for begin in range(0, len(members), step):
            lowest.append((vectors[members[begin : begin + step]] @ vectors[members].T).min(axis=1))
    nearest = np.full(len(rows), -np.inf)  # the highest cosine of each row to a new face
    step = max(1, COSINES_AT_ONCE // len(rows))
    for begin in range(0, len(new), step):
        np.maximum(nearest, (vectors[rows] @ vectors[new[begin : begin + step]].T).max(axis=1), out=nearest)
    return rows[nearest >= np.concatenate(lowest) - _ROUNDING]
