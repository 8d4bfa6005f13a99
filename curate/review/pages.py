"""Renders the pages of the review. Every name and every path in a page is text, and never HTML."""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from manifests.runtime.text import format_count


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Returns the page of a template in templates/. A template that extends base.html.j2 gets its values from here."""
    state = request.app.state
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
    """Returns an error that the user can mend."""
    return render_error(request, sentence, 409)


def wants_json(request: Request) -> bool:
    return request.url.path.startswith("/api/")


@cache
def _load_templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("curate.review", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["count"] = format_count
    return environment
