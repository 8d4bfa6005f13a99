"""The page of the files, photos and faces that are not used, with a tab for each reason."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curate.review.unused.unused_items import KINDS, read_items, read_reasons
from curate.review.web.pages import get_session, render
from curate.review.web.paging import make_paging
from curate.review.web.reading import open_ledger

NAVIGATION = [("/unused", "Not used")]
_ITEMS = 60  # number of items on a page (ours)


def show_unused(request: Request) -> Response:
    """Sends the page of the items of one kind and one reason. By default, the page shows the first reason for faces."""
    session = get_session(request)
    session.read()
    kind, code = request.query_params.get("kind"), request.query_params.get("reason")
    with open_ledger(request) as ledger:
        reasons = read_reasons(ledger)
        chosen = next((one for one in reasons if (one.kind, one.code) == (kind, code)), None)
        if chosen is None:
            chosen = next((one for one in reasons if one.kind == "face"), reasons[0] if reasons else None)
        paging = make_paging(request, chosen.count if chosen else 0, _ITEMS)
        items = read_items(ledger, chosen.kind, chosen.code, paging.start, _ITEMS) if chosen else []
    tabs = {kind: [one for one in reasons if one.kind == kind] for kind in KINDS}
    return render(request, "unused.html.j2", tabs=tabs, chosen=chosen, items=items, paging=paging)


ROUTES = [Route("/unused", show_unused)]
