"""Receives the acts of the user, and sends the state of the session."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.people.acts import perform
from curate.review.web.pages import get_session, read_json

NAVIGATION: list[tuple[str, str]] = []
_MOST_BYTES = 16 * 2**20  # the largest size of an act in bytes (ours): the ids of 400,000 faces fit


async def receive_act(request: Request) -> Response:
    """Performs an act. Sends a sentence and the new state, or an error if nothing was recorded."""
    session = get_session(request)
    act = await read_json(request, _MOST_BYTES)
    answer = await run_in_threadpool(perform, session, act)
    return JSONResponse({"notices": [], **answer, "state": session.describe_state()})


def show_state(request: Request) -> Response:
    """Checks whether another command changed the ledger, and sends the state of the session."""
    session = get_session(request)
    session.read()
    return JSONResponse({"state": session.describe_state()})


ROUTES = [Route("/api/act", receive_act, methods=["POST"]), Route("/api/state", show_state)]
