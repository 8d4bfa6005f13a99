"""Opens the pages of the review in this process, without a browser and without a socket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from starlette.testclient import TestClient

from curate.review.access import Access
from curate.review.server import make_app
from curate.review.session import Session

PORT = 8123
ORIGIN = f"http://127.0.0.1:{PORT}"


def open_review(dataset: Path) -> TestClient:
    """Returns a client that has the cookie. `client.review` is the session of the review."""
    session = Session(dataset)
    access = Access(make_app(session), "127.0.0.1", PORT)
    client = TestClient(access, base_url=ORIGIN, headers={"origin": ORIGIN})
    assert client.get(f"/?{urlsplit(access.link).query}", headers={"origin": ORIGIN}).status_code == 200
    client.review = session  # type: ignore[attr-defined]
    return client
