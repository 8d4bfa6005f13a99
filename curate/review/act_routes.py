"""Receives the acts of the user, and answers the state of the session."""

from __future__ import annotations

import json

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.acts import perform
from curate.review.pages import get_session
from curate.review.session import Applying
from manifests.errors import BadInput

NAVIGATION: list[tuple[str, str]] = []
_MOST_BYTES = 16 * 2**20  # the largest act (ours): the ids of 400,000 faces


async def receive_act(request: Request) -> Response:
    """Performs an act. Answers a sentence and the new state, or an error if nothing was recorded."""
    session = get_session(request)
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "An act is JSON.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"The act has more than {_MOST_BYTES // 2**20} MiB. Choose fewer faces.")
    try:
        act = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise BadInput("The act is not JSON.") from None
    try:
        answer = await run_in_threadpool(perform, session, act)
    except Applying as error:
        return JSONResponse({"error": str(error), "again": True}, 503)
    return JSONResponse({"notices": [], **answer, "state": session.describe_state()})


def show_state(request: Request) -> Response:
    """Answers the state of the session, after a look whether another command changed the ledger."""
    session = get_session(request)
    session.read()
    return JSONResponse({"state": session.describe_state()})


ROUTES = [Route("/api/act", receive_act, methods=["POST"]), Route("/api/state", show_state)]
