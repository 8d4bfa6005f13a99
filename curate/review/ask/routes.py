"""The page of questions. The page asks the question whose answer is expected to correct the most wrong pairs of
faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.ask.asker import Asker
from curate.review.web.pages import get_session, read_json, render
from manifests.errors import BadInput

NAVIGATION = [("/ask", "Questions")]
_MOST_BYTES = 4096  # the largest answer (ours)


def show_page(request: Request) -> Response:
    """Sends the page. A script fills the page with questions."""
    return render(request, "ask.html.j2")


def send_question(request: Request, outcome: Mapping[str, Any] | None = None) -> Response:
    """Sends the next question, or null as `question`. `outcome` is the result of `Asker.answer` for the last answer."""
    described = _get_asker(request).describe()
    return JSONResponse({**described, **(outcome or {}), "state": get_session(request).describe_state()})


async def receive_answer(request: Request) -> Response:
    """Records a `yes` or a `no`, and sends the next question. A `skip` or a `mixed` records nothing.

    Sends an error if the answer is refused, for example because it contradicts a label.
    """
    words = await read_json(request, _MOST_BYTES)
    if not isinstance(words, dict):
        raise BadInput("The answer is not a JSON object.")
    outcome = await run_in_threadpool(_get_asker(request).answer, words.get("question"), words.get("answer"))
    return await run_in_threadpool(send_question, request, outcome)


def _get_asker(request: Request) -> Asker:
    asker: Asker = request.app.state.asker
    return asker


ROUTES = [
    Route("/ask", show_page),
    Route("/api/ask", send_question, methods=["GET"]),
    Route("/api/ask", receive_answer, methods=["POST"]),
]
