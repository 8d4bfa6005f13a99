"""The page of all people, and the page of a person."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.people.closeness import find_closest_people, find_people_like, propose_two
from curate.review.people.consent_facts import describe_consent_of_person
from curate.review.session.view import FACE_ORDERS, ORDERS, SHOWN, View
from curate.review.web.pages import (
    answer_part,
    choose,
    get_session,
    read_decimal,
    read_json,
    read_number,
    render,
)
from manifests.errors import BadInput

NAVIGATION = [("/", "People")]
_CLOSEST = 8  # The number (ours) of similar people that the page of a person shows.
_CHOICES = 30  # The number (ours) of people that the dialog for a move shows.
_MOST_BYTES = 16 * 2**20  # The largest size of a request with faces, in bytes (ours). The ids of 400,000 faces fit.
_GONE = (
    "There is no person with this id. The person may have been merged, may have another id now, or may have no photo "
    "that may be used."
)


def show_people(request: Request) -> Response:
    """Sends the page of all people."""
    return render(request, "people.html.j2")


def list_people(request: Request) -> Response:
    """Sends the rows of some people for the page of all people.

    The request names these people with `start` and `count`. `total` counts all people.
    """
    session, query = get_session(request), request.query_params
    with session.lock:
        rows = session.read().list_people(
            query.get("search", "").strip(),
            choose(query.get("order"), ORDERS, "size"),
            choose(query.get("show"), SHOWN, "all"),
        )
    return answer_part(request, rows)


def show_person(request: Request) -> Response:
    """Sends the page of a person."""
    session = get_session(request)
    with session.lock:
        person = _find_person(session.read(), request.path_params["person"])
    return render(request, "person.html.j2", person=person)


def describe_person(request: Request) -> Response:
    """Sends the row of a person."""
    session = get_session(request)
    with session.lock:
        person = _find_person(session.read(), request.path_params["person"])
        state = session.describe_state()
    return JSONResponse({"person": person, "state": state})


def list_faces(request: Request) -> Response:
    """Sends some faces of a person, and the row of the person."""
    session, query = get_session(request), request.query_params
    with session.lock:
        view = session.read()
        person = _find_person(view, request.path_params["person"])
        faces = view.list_faces(
            person["id"],
            choose(query.get("order"), FACE_ORDERS, "typical"),
            read_number(request, "pixels", 0),
            read_decimal(request, "sharpness"),
            joined=query.get("show") == "joined",
        )
        return answer_part(request, faces, view.describe_face, person=person)


def _find_person(view: View, identity_id: str) -> dict[str, Any]:
    """Returns the row of a person, with the consent for all photos. Raises HTTPException 404 if the person does not
    exist."""
    person = view.find_person(identity_id)
    if person is None:
        raise HTTPException(404, _GONE)
    return {**person, "consent": describe_consent_of_person(view, identity_id)}


def list_closest(request: Request) -> Response:
    """Sends the rows of the people who are most similar to a person."""
    session = get_session(request)
    with session.lock:
        view = session.read()
        rows = find_closest_people(session.dataset, view, request.path_params["person"], _CLOSEST)
    return JSONResponse({"rows": rows})


def _read_names(names: object) -> list[str]:
    """Returns `names`. Raises BadInput if `names` is not a list of texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput("The request needs the lists `faces` and `without`.")
    return names


async def list_similar(request: Request) -> Response:
    """Sends the rows of the people who are most similar to the faces of the request.

    The request is {"faces": [...], "without": [...], "search": "..."}. The people `without` are left out. With a
    `search`, only people whom the search finds are sent. If none of the faces has an embedding in memory, the people
    with the most faces are sent, without cosines. For example, faces have no embedding in memory after an undo has
    brought them back.
    """
    session, wish = get_session(request), await read_json(request, _MOST_BYTES)
    wish = wish if isinstance(wish, dict) else {}
    faces, without = _read_names(wish.get("faces")), _read_names(wish.get("without"))
    search = str(wish.get("search", "")).strip()

    def find_rows() -> list[dict[str, Any]]:
        with session.lock:
            view = session.read()
            only = {row["id"] for row in view.list_people(search)} if search else None
            rows = find_people_like(session.dataset, view, faces, _CHOICES, without, only)
            return rows or [row for row in view.list_people(search) if row["id"] not in without][:_CHOICES]

    return JSONResponse({"rows": await run_in_threadpool(find_rows)})


def propose_split(request: Request) -> Response:
    """Sends the faces of a person that may show another person."""
    session = get_session(request)
    with session.lock:
        view = session.read()
        faces = propose_two(session.dataset, view, request.path_params["person"])
    return JSONResponse({"faces": faces})


ROUTES = [
    Route("/", show_people),
    Route("/person/{person}", show_person),
    Route("/api/people", list_people),
    Route("/api/people/{person}", describe_person),
    Route("/api/people/{person}/faces", list_faces),
    Route("/api/people/{person}/closest", list_closest),
    Route("/api/similar", list_similar, methods=["POST"]),
    Route("/api/people/{person}/two", propose_split),
]
