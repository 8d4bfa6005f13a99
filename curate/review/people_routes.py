"""The wall of people."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.pages import render
from curate.review.pictures.thumbnails import read_thumbnail
from curate.review.session import Session
from curate.review.view import ORDERS, SHOWN

NAVIGATION = [("/", "People")]
_MOST_ROWS = 500  # the largest number of rows in one answer (ours)


def show_people(request: Request) -> Response:
    """The page with the wall of people."""
    return render(request, "people.html.j2")


def list_people(request: Request) -> Response:
    """Answers a part of the wall: `start` and `count` name the rows, `total` is the number of all rows."""
    session: Session = request.app.state.session
    query = request.query_params
    with session.lock:
        rows = session.read().list_people(
            query.get("search", "").strip(),
            _choose(query.get("order"), ORDERS, "size"),
            _choose(query.get("show"), SHOWN, "all"),
        )
    return answer_part(request, rows)


def send_thumbnail(request: Request) -> Response:
    """Answers the thumbnail of a face of the ledger."""
    session: Session = request.app.state.session
    face = session.read().faces.get(request.path_params["face"])
    data = None if face is None else read_thumbnail(session.dataset, face, not session.read_only)
    if data is None:
        raise HTTPException(404)
    return Response(data, media_type="image/webp")


def answer_part(request: Request, rows: list[dict]) -> Response:
    """Answers the part of `rows` that the request names with `start` and `count`, and the state of the session."""
    session: Session = request.app.state.session
    start, count = (read_number(request, name, default) for name, default in (("start", 0), ("count", 100)))
    part = rows[start : start + min(count, _MOST_ROWS)]
    return JSONResponse({"total": len(rows), "start": start, "rows": part, "state": session.describe_state()})


def read_number(request: Request, name: str, default: int) -> int:
    """Returns a parameter of the request as a whole number of 0 or more, or `default` if it is no such number."""
    value = request.query_params.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else default


def _choose(value: str | None, table: dict, default: str) -> str:
    return value if value is not None and value in table else default


ROUTES = [
    Route("/", show_people),
    Route("/api/people", list_people),
    Route("/thumbnail/{face}.webp", send_thumbnail),
]
