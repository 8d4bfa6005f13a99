"""The page of near-duplicates: each group with the copy that is used, and why the other copies are not used."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curate.review.copies.copy_groups import count_groups, read_groups
from curate.review.web.pages import render
from curate.review.web.paging import make_paging
from curate.review.web.reading import open_ledger

NAVIGATION = [("/copies", "Copies")]
_GROUPS = 30  # number of groups on a page (ours)


def show_copies(request: Request) -> Response:
    """The groups of near-duplicates."""
    with open_ledger(request) as ledger:
        total, unused = count_groups(ledger)
        paging = make_paging(request, total, _GROUPS)
        groups = read_groups(ledger, paging.start, _GROUPS)
    return render(request, "copies.html.j2", groups=groups, paging=paging, unused=unused)


ROUTES = [Route("/copies", show_copies)]
