"""Finds the old people of dropped faces that a move brings back.

A dropped face belongs to no person, so the move alone does not separate the face from its old person. The next grouping
could then join the whole old person to the target of the move. The ledger does not say who the old person was, so the
person with the most similar face counts as the old person (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from curate.people.pending.people_now import PeopleNow
from manifests.errors import LedgerBroken
from manifests.ledger.decisions.decision_log import FaceLocation

# Reads ids and embeddings (n, d) of the named faces, or of all faces in use; see Ledger.read_embeddings.
ReadEmbeddings = Callable[[Sequence[str] | None], tuple[list[str], np.ndarray]]


def find_old_people(
    people: PeopleNow, faces: Sequence[FaceLocation], target: Collection[str], read: ReadEmbeddings
) -> set[str]:
    """Returns the old people of the faces in `faces` that belong to no person now.

    A person in `target` is never an old person. The result is empty if one of the faces has no embedding, or if there
    are no other people.
    """
    found = [row.representative for row in (people.finder.find(face)[0] for face in faces) if row is not None]
    identity_of = people.identity_of
    try:
        _, own = read([face for face in found if face not in identity_of])
    except LedgerBroken:  # a filter dropped the face in a later curation, before its embedding was made
        return set()
    ids, vectors = read(None)
    rows = [row for row, face in enumerate(ids) if face in identity_of and identity_of[face] not in target]
    if not rows or not len(own):
        return set()
    return {identity_of[ids[rows[best]]] for best in (own @ vectors[rows].T).argmax(1)}
