"""Counts how many targets pass each rung. The rungs are the filter sets default, strict, hq256 and hq512."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from curate.detection.filter_files import insert_min_score
from curate.face_filters import RUNGS
from manifests.ledger.filters import FilterSet, find_removals, list_photo_facts
from manifests.ledger.records import Face, Pair, Photo


def count_rungs(
    pairs: Sequence[Pair], faces: Sequence[Face], photos: Mapping[str, Photo], min_score: float
) -> dict[str, int]:
    """Returns name of a filter set -> number of targets that pass the set.

    A target passes a set if the filters accept the target and at least one of its references. `min_score` is the lowest
    score that the face detector accepts.
    """
    used = {face for pair in pairs for face in (pair.target, *pair.refs)}
    faces = [face for face in faces if face.face_id in used]
    facts = [list_photo_facts(photos[face.photo_id]) for face in faces]
    rungs = [insert_min_score(rung, min_score) for rung in RUNGS]
    # The rungs share most of their filters. Each filter is evaluated one time, because that takes most of the time.
    rules = list(dict.fromkeys(rule for rung in rungs for rule in rung.filters))
    removals = find_removals(faces, facts, FilterSet("rungs", 1, tuple(rules)))
    counts = {}
    for rung in rungs:
        kept = np.flatnonzero(~removals[:, [rules.index(rule) for rule in rung.filters]].any(axis=1))
        accepted = {faces[row].face_id for row in kept.tolist()}
        counts[rung.name] = sum(pair.target in accepted and not accepted.isdisjoint(pair.refs) for pair in pairs)
    return counts
