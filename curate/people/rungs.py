"""Counts how many targets each rung of the built-in filter sets leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curate.detection.filter_files import insert_min_score
from curate.detection.screen import find_reasons, list_photo_facts
from curate.face_filters import RUNGS
from manifests.ledger.records import Face, Pair, Photo


def count_rungs(
    pairs: Sequence[Pair], faces: Sequence[Face], photos: Mapping[str, Photo], min_score: float
) -> dict[str, int]:
    """Returns the number of targets that each rung leaves, by the name of the filter set.

    A rung leaves a target if its filters accept the target and at least one of its references. `min_score` is the least
    score of the face detector.
    """
    used = {face for pair in pairs for face in (pair.target, *pair.refs)}
    faces = [face for face in faces if face.face_id in used]
    facts = [list_photo_facts(photos[face.photo_id]) for face in faces]
    counts = {}
    for rung in RUNGS:
        reasons = find_reasons(faces, facts, insert_min_score(rung, min_score))
        accepted = {face.face_id for face, reason in zip(faces, reasons, strict=True) if reason is None}
        counts[rung.name] = sum(pair.target in accepted and not accepted.isdisjoint(pair.refs) for pair in pairs)
    return counts
