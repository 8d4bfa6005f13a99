"""The page of the leaks, which shows the two faces of each pair side by side, and offers a repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.leaks.leak_pairs import (
    MEANINGS,
    PAIRS,
    describe_plan,
    describe_repair,
    group_pairs,
    has_decisions,
    plan_repair,
    read_audit,
    run_repair,
    search_pairs,
)
from curate.review.web.background import answer_status
from curate.review.web.pages import fail, get_session, render
from curate.review.web.reading import open_ledger

NAVIGATION = [("/leaks", "Leaks")]
# maps the name of a job to the function that runs in the background, and to a function that describes the result
_WORKS: dict[str, tuple[Callable[..., Any], Callable[[Any], dict[str, Any]]]] = {
    "search": (search_pairs, lambda pairs: {}),
    "plan": (plan_repair, lambda plan: {"sentence": describe_plan(plan), "decides": has_decisions(plan)}),
    "repair": (run_repair, lambda repair: {"sentence": describe_repair(repair)}),
}


def show_leaks(request: Request) -> Response:
    """Sends the page with the counts of the recorded search.

    If the search in the background has ended, the page has the pairs.
    """
    session = get_session(request)
    with open_ledger(request) as ledger:
        audit = read_audit(ledger)
    job = request.app.state.jobs.find(search_pairs)
    if audit.needs_search:
        job.start(audit.key, session.dataset)
    status, pairs = job.read(audit.key)
    return render(
        request, "leaks.html.j2", audit=audit, progress=status, meanings=MEANINGS, limit=PAIRS,
        groups=None if pairs is None else group_pairs(pairs),
    )  # fmt: skip


def start_work(request: Request) -> Response:
    """Starts the job that the path names. The answer contains the key of the job, which `read_work` needs."""
    session = get_session(request)
    function, _ = _find_work(request)
    if function is run_repair and session.read_only:
        return fail(request, session.read_only)
    with open_ledger(request) as ledger:
        key = read_audit(ledger).key
    request.app.state.jobs.find(function).start(key, session.dataset)
    return JSONResponse({"key": key})


def read_work(request: Request) -> Response:
    """Sends the progress of a job. After the end of the job, the answer also contains the result."""
    function, describe = _find_work(request)
    status, result = request.app.state.jobs.find(function).read(request.query_params.get("key", ""))
    return answer_status(status, **({} if result is None else describe(result)))


def _find_work(request: Request) -> tuple[Callable[..., Any], Callable[[Any], dict[str, Any]]]:
    work = _WORKS.get(request.path_params["work"])
    if work is None:
        raise HTTPException(404)
    return work


ROUTES = [
    Route("/leaks", show_leaks),
    Route("/api/leaks/{work}", read_work),
    Route("/api/leaks/{work}", start_work, methods=["POST"]),
]
