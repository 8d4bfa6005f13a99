"""People -> reference pairs: for every target its references of the same person, the most alike first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from manifests.records import Pair, Split

POLICY = "nearest"  # references by falling cosine to the target
MOST = 16  # references kept a target; training draws at most 4 (ours)


def make_pairs(splits: Sequence[Split], photo_of: dict[str, str], embeddings: dict[str, np.ndarray]) -> list[Pair]:
    """One row for every face in a split that has at least one reference.

    References show the same person in another photo; near-duplicates are no longer among `splits`. Under --split photos
    the references of val and test come from train, as they would when a personal restorer is used. Rows that were set
    aside take no part.
    """
    people: dict[str, list[Split]] = defaultdict(list)
    for row in splits:
        if row.status == "ok":
            people[row.identity_id].append(row)
    rows = []
    for person in sorted(people):
        for target in people[person]:
            side = "train" if target.policy == "photos" else target.split
            usable = [
                row.face_id
                for row in people[person]
                if row.split == side and photo_of[row.face_id] != photo_of[target.face_id]
            ]
            if not usable:
                continue
            cosine = np.array([float(embeddings[target.face_id] @ embeddings[face]) for face in usable])
            order = sorted(range(len(usable)), key=lambda i: (-round(float(cosine[i]), 6), usable[i]))[:MOST]
            refs, similarities = tuple(usable[i] for i in order), tuple(float(cosine[i]) for i in order)
            rows.append(Pair(target.face_id, refs, similarities, POLICY, target.split))
    return sorted(rows, key=lambda row: row.target)
