"""Finds the old people of dropped faces that a move brings back.

A dropped face belongs to no person, so the move alone does not separate the face from its old person. The next grouping
could then join the whole old person to the target of the move. The ledger does not say who the old person was, so the
person with the most similar face counts as the old person (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from curate.decisions.face_lookup import FaceLookup
from curate.decisions.requests import Request
from curate.decisions.take_back import take_drops_back
from manifests.errors import BadInput, LedgerBroken

# Reads ids and embeddings (n, d) of the named faces, or of all faces in use; see Ledger.read_embeddings.
ReadEmbeddings = Callable[[Sequence[str] | None], tuple[list[str], np.ndarray]]


def name_old_people(requests: Sequence[Request], lookup: FaceLookup, read: ReadEmbeddings) -> list[Request]:
    """Returns the requests. A move of dropped faces without the key `rest` gets the faces of the old people as `rest`.

    A request with a fault, or with a face without an embedding, is returned as it is.
    """
    return [
        _name_rest(request, lookup, read) if request.get("kind") == "move" and "rest" not in request else request
        for request in requests
    ]


def _name_rest(request: Request, lookup: FaceLookup, read: ReadEmbeddings) -> Request:
    people = lookup.people
    try:
        faces = lookup.find_faces(request.get("faces"), may_be_dropped=True)
        target = lookup.find_person(request.get("to"))
    except BadInput:  # the parser of the requests raises the same error with the line of the file
        return request
    if not take_drops_back(people, faces):
        return request
    found = [row.representative for row in (people.finder.find(face)[0] for face in faces) if row is not None]
    dropped = [face for face in found if face not in people.identity_of]
    left = {lookup.find_identity(face) for face in target if lookup.has_identity(face)}
    try:
        ids, vectors = read(None)
        own = read(dropped)[1] if dropped else np.zeros((0, 0), np.float32)
    except LedgerBroken:
        return request
    identity_of = people.identity_of
    rows = [row for row, face in enumerate(ids) if face in identity_of and identity_of[face] not in left]
    old = {identity_of[face] for face in found if face in identity_of} - left
    if rows and len(own):
        old |= {identity_of[ids[rows[best]]] for best in (own @ vectors[rows].T).argmax(1)}
    rest = sorted({face for person in old for face in people.members[person]} - set(found))
    return {**request, "rest": rest} if rest else request
