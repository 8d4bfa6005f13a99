"""Opens the pages of the review in this process, without a browser and without a socket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.testclient import TestClient

from curate.review.server import make_app
from curate.review.session.session import Session
from curate.review.web.access import Access

PORT = 8123
ORIGIN = f"http://127.0.0.1:{PORT}"


class Review:
    """Holds the session of a review, and a client that has the cookie of the review."""

    def __init__(self, dataset: Path, idle: float = 1e9) -> None:
        self.session = Session(dataset, idle)
        access = Access(make_app(self.session), "127.0.0.1", PORT)
        self.client = TestClient(
            access,
            base_url=ORIGIN,
            headers={"origin": ORIGIN},
        )
        assert self.client.get(f"/?{urlsplit(access.link).query}").status_code == 200

    def get(self, path: str, **query: object) -> Any:
        """Returns the answer of the server to a GET request, as parsed JSON."""
        return self.client.get(path, params=query).json()

    def act(self, **body: object) -> Any:
        """Performs an act, and returns the answer. The act must succeed."""
        answer = self.client.post("/api/act", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def decide(self, *requests: dict[str, Any]) -> Any:
        return self.act(requests=list(requests))

    def refuse(self, **body: object) -> str:
        """Performs an act that must be refused, and returns the sentence of the refusal."""
        answer = self.client.post("/api/act", json=body)
        assert answer.status_code == 409, answer.text
        return str(answer.json()["error"])

    def list_people(self, **query: object) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("/api/people", **query)["rows"]
        return rows


def open_review(dataset: Path) -> TestClient:
    """Returns a client that has the cookie. The review is never closed, as if its server had been killed."""
    return Review(dataset).client


@contextlib.contextmanager
def review_dataset(dataset: Path, idle: float = 1e9) -> Iterator[Review]:
    """Opens a review. At the end, the review is closed, so its decisions are applied."""
    review = Review(dataset, idle)
    try:
        yield review
    finally:
        review.session.close(lambda sentence: None)
