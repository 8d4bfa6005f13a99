"""Opens the ledger for one request, and finds faces and people in the view of the session.

No connection stays open between two requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request

from curate.review.web.pages import get_session
from manifests.errors import LedgerLocked
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face


@contextmanager
def open_ledger(request: Request) -> Iterator[Ledger]:
    """Yields the ledger, open for reading. The server's other threads wait until the ledger is closed.

    Raises LedgerLocked if another command writes to the ledger.
    """
    session = get_session(request)
    with session.lock:
        session.read()
        try:
            ledger = Ledger.open(session.dataset)
        except LedgerLocked:
            cause = (
                "The decisions are being applied."
                if session.describe_state()["applying"]
                else "Another command is working on this dataset."
            )
            raise LedgerLocked(f"{cause} Wait until this has ended, then load this page again.") from None
        with ledger:
            yield ledger


@dataclass(frozen=True)
class FaceOwner:
    """The person of a face after all recorded decisions, including decisions that are not applied yet."""

    identity_id: str
    title: str  # The name of the person, or the id of a person without a name.
    faces: int  # Number of faces of the person.


def find_face(request: Request, face_id: str) -> Face:
    """Returns a face of the ledger whose pictures may be shown.

    Raises HTTPException 404 if the ledger has no such face, or if the pages must not show pictures of its photo.
    """
    view = get_session(request).read()
    face = view.people.faces.get(face_id)
    if face is None:
        raise HTTPException(404, "There is no face with this id.")
    if not view.may_show(face_id):
        raise HTTPException(404, "This picture is not available.")
    return face


def find_owners(request: Request, face_ids: Iterable[str]) -> list[FaceOwner | None]:
    """Returns the person of each face, in the same order, or None for a face that belongs to no person."""
    session = get_session(request)
    with session.lock:
        people = session.read().people
        owned = [people.identity_of.get(face) for face in face_ids]
        owners = {
            person: FaceOwner(person, people.identities[person].name or person, len(people.members[person]))
            for person in set(owned)
            if person is not None
        }
        return [None if person is None else owners[person] for person in owned]
