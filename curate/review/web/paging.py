"""Divides long lists into pages, and reads the values that choose a page from a request."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request

from curate.review.web.pages import read_number


@dataclass(frozen=True)
class Paging:
    """The links of a page to the pages before and after it."""

    start: int  # number of the first item on the page, from 0
    end: int  # number of the item after the last item on the page
    total: int
    before: str | None  # query of the page before
    after: str | None  # query of the page after


def make_paging(request: Request, total: int, limit: int) -> Paging:
    """Returns the links for a list of `total` items with `limit` items on a page. The parameter `start` is checked.

    A `start` that is no number, or that lies behind the end of the list, counts as 0.
    """
    start = read_number(request, "start", 0)
    start = start - start % limit if start < total else 0

    def link(other: int) -> str:
        values = {**request.query_params, "start": other}
        return "?" + urlencode({key: value for key, value in values.items() if value != 0})

    return Paging(
        start,
        min(start + limit, total),
        total,
        link(start - limit) if start else None,
        link(start + limit) if start + limit < total else None,
    )
