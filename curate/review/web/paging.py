"""Divides long lists into pages, and reads the values that choose a page from a request."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request

from curate.review.web.pages import read_number


@dataclass(frozen=True)
class Paging:
    """The items on a page of a list, and the links to the pages before and after it."""

    start: int  # Number of the first item on the page. The first item of the list has the number 0.
    end: int  # Number of the last item on the page, plus 1.
    total: int
    before: str | None  # The query of the link to the previous page. None for the first page.
    after: str | None  # The query of the link to the next page. None for the last page.


def make_paging(request: Request, total: int, limit: int) -> Paging:
    """Returns the paging of a list of `total` items with `limit` items on a page.

    The request names the first item with `start`. If `start` is no number, or is not in the list, the first page is
    shown.
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
