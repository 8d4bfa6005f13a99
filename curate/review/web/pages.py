"""Renders the pages of the review. Every name and every path in a page is text, and never HTML."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from curate.review.session.session import Session
from manifests.errors import BadInput
from manifests.runtime.text import format_count

Item = TypeVar("Item")
_MOST_ROWS = 500  # the largest number of rows in one answer (ours)


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Returns a page that is made from a template in templates/, `values`, and the values that every page needs."""
    state = request.app.state
    state.first_page.set()
    text = (
        _load_templates()
        .get_template(template)
        .render(navigation=state.navigation, path=request.url.path, session=state.session, **values)
    )
    return HTMLResponse(text, status)


def render_error(request: Request, sentence: str, status: int) -> Response:
    """Returns an error as a page, or as JSON if a script made the request."""
    if wants_json(request):
        return JSONResponse({"error": sentence}, status)
    return render(request, "error.html.j2", status, sentence=sentence)


def fail(request: Request, sentence: str) -> Response:
    """Returns an error that the user can correct."""
    return render_error(request, sentence, 409)


def wants_json(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def get_session(request: Request) -> Session:
    session: Session = request.app.state.session
    return session


def answer_part(
    request: Request, rows: Sequence[Item], describe: Callable[[Item], Any] = lambda row: row, **more: Any
) -> Response:
    """Sends some of the `rows`, and the state of the session. The request names the rows with `start` and `count`.

    `describe` converts a row to JSON. The answer also contains `more`.
    """
    start, count = (read_number(request, name, default) for name, default in (("start", 0), ("count", 100)))
    part = [describe(row) for row in rows[start : start + min(count, _MOST_ROWS)]]
    state = get_session(request).describe_state()
    return JSONResponse({"total": len(rows), "start": start, "rows": part, "state": state, **more})


async def read_json(request: Request, most_bytes: int) -> object:
    """Returns the JSON that a script sent.

    Raises HTTPException 415 if the body is not declared as JSON, and 413 if the body has more than `most_bytes`. Raises
    BadInput if the body cannot be parsed.
    """
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "The body of this request must be JSON.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most_bytes:
            raise HTTPException(413, f"The request has more than {most_bytes:,} bytes. Choose fewer faces.")
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise BadInput("The request is not JSON.") from None


def read_number(request: Request, name: str, default: int) -> int:
    """Returns a parameter of the request as an integer of 0 or more. Returns `default` if the parameter is missing or
    is no such integer."""
    value = request.query_params.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else default


def read_decimal(request: Request, name: str) -> float:
    """Returns a parameter of the request as a number of 0 or more, or 0 if the parameter is no such number."""
    try:
        value = float(request.query_params.get(name, ""))
    except ValueError:
        return 0.0
    return value if 0 <= value < float("inf") else 0.0


def choose(value: str | None, table: Mapping[str, Any], default: str) -> str:
    """Returns `value` if it is a key of the table, and `default` otherwise."""
    return value if value is not None and value in table else default


@cache
def _load_templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("curate.review.web", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["count"] = format_count
    return environment
