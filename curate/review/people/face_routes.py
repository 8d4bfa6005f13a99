"""Sends the pictures of a face, and what the ledger knows about the face. Only faces of the ledger have pictures."""

from __future__ import annotations

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.people.closeness import find_similar_people
from curate.review.people.face_facts import describe_face_fully
from curate.review.pictures.source_photo import draw_source_photo
from curate.review.pictures.thumbnails import read_crop, read_thumbnail
from curate.review.session.session import Session
from curate.review.session.view import View
from curate.review.web.pages import get_session
from manifests.ledger.records import Face

NAVIGATION: list[tuple[str, str]] = []


def send_thumbnail(request: Request) -> Response:
    """Sends the thumbnail of a face."""
    return _send(request, lambda session, view, face: read_thumbnail(session.dataset, face, not session.read_only))


def send_crop(request: Request) -> Response:
    """Sends the crop of a face in its own size."""
    return _send(request, lambda session, view, face: read_crop(session.dataset, face))


def send_source(request: Request) -> Response:
    """Sends the photo of a face, with a frame around the face.

    Sends the status 404 if the photo is gone, changed or hidden.
    """
    return _send(request, lambda session, view, face: draw_source_photo(view.files.get(face.photo_id, ()), face))


def describe_face(request: Request) -> Response:
    """Sends what the ledger knows about a face."""
    session = get_session(request)
    with session.lock:
        view = session.read()
        face = view.people.faces.get(request.path_params["face"])
        if face is None:
            raise HTTPException(404, "There is no face with this id.")
        person = view.people.identity_of.get(face.face_id)
        near = {} if person is None else find_similar_people(session.dataset, view, face.face_id, person)
        return JSONResponse({**describe_face_fully(view, face), **near})


def _send(request: Request, read: Callable[[Session, View, Face], bytes | None]) -> Response:
    session = get_session(request)
    view = session.read()
    face = view.people.faces.get(request.path_params["face"])
    data = None if face is None or view.is_hidden(face.photo_id) else read(session, view, face)
    if data is None:
        raise HTTPException(404, "This picture is not available.")
    return Response(data, media_type="image/webp")


ROUTES = [
    Route("/thumbnail/{face}.webp", send_thumbnail),
    Route("/crop/{face}.webp", send_crop),
    Route("/source/{face}.webp", send_source),
    Route("/api/faces/{face}", describe_face),
]
