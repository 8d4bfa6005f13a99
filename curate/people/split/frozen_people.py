"""Finds out whether a new person is already in a frozen set, with faces that the dataset does not use any more.

After a set is frozen, the files of a person in the set may be overwritten, or the faces of the person may be dropped.
The embeddings of unused frozen faces stay in the dataset, and show whether a new person is a person of the frozen set.
A new person who is a person of the frozen set gets the split of the frozen set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Membership, Split


def find_frozen_people(
    ledger: Ledger,
    faces: Sequence[Face],
    memberships: Sequence[Membership],
    before: Sequence[Split],
    successors: Collection[str] = (),
) -> list[tuple[str, Split]]:
    """Returns pairs: a face in use, and the row of a frozen face. Both faces show the same person.

    Only people without a face in a frozen set are compared, and each person gets at most one pair. The mean cosine of
    the person's faces and the frozen person's unused faces must reach the threshold of the grouping. `faces` are all
    faces of the ledger, and `before` are the split rows of the last run. The frozen faces in `successors` are left out,
    because another face in use shows the same picture.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for row in memberships:
        members[row.identity_id].append(row.face_id)
    owner = {row.face_id: row.identity_id for row in memberships}
    embedded = {face.face_id for face in faces if face.shard is not None}
    unused = [row for row in before if row.locked and row.policy == "identity" and row.face_id not in owner]
    unused = [row for row in unused if row.face_id in embedded and row.face_id not in successors]
    threshold = ledger.read_detail("group").get("threshold")
    if not unused or threshold is None:
        return []
    known = {owner[row.face_id] for row in before if row.locked and row.face_id in owner}
    people = sorted(identity for identity in members if identity not in known)

    # the mean embeddings of the new people and of the frozen people; the dot product of two mean embeddings is the mean
    # cosine
    frozen = sorted({row.identity_id for row in unused})
    new_means = _average(ledger, [[face for face in members[identity] if face in embedded] for identity in people])
    old_means = _average(ledger, [[row.face_id for row in unused if row.identity_id == name] for name in frozen])
    if not len(new_means):
        return []
    cosines = new_means @ old_means.T
    row_of = {row.identity_id: row for row in unused}
    return [
        (min(members[identity]), row_of[frozen[best]])
        for identity, best, cosine in zip(people, cosines.argmax(1).tolist(), cosines.max(1).tolist(), strict=True)
        if cosine >= float(threshold)
    ]


def _average(ledger: Ledger, groups: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the mean embedding of each group of faces, float32 (groups, d)."""
    return np.stack([ledger.read_embeddings(group)[1].mean(0) for group in groups]) if groups else np.zeros((0, 0))
