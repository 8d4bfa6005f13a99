"""Tests that only the user's own browser session gets into the pages of the review."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from curate.review.web.access import Access, is_loopback

BASE = "http://127.0.0.1:8123"


def answer(request: Request) -> Response:
    return PlainTextResponse("secret picture")


def make_guard(host: str = "127.0.0.1", links: list[str] | None = None) -> Access:
    routes = [Route("/", answer), Route("/act", answer, methods=["GET", "POST"])]
    return Access(Starlette(routes=routes), host, 8123, (links if links is not None else []).append)


def open_client(guard: Access, base: str = BASE) -> TestClient:
    return TestClient(guard, base_url=base, follow_redirects=False)


def enter(guard: Access, base: str = BASE) -> TestClient:
    client = open_client(guard, base)
    assert client.get(f"/?{urlsplit(guard.link).query}").status_code == 303
    return client


def test_the_link_opens_the_pages_one_time_and_the_cookie_opens_all_pages():
    links: list[str] = []
    guard = make_guard(links=links)
    first = guard.link
    client = open_client(guard)
    opened = client.get(f"/?{urlsplit(first).query}")
    assert opened.status_code == 303 and opened.headers["location"] == "/"
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "token" not in cookie
    assert client.get("/").text == "secret picture" and client.get("/act").status_code == 200
    stranger = open_client(guard)
    assert stranger.get(f"/?{urlsplit(first).query}").status_code == 403, "a link was used twice"
    assert links == [guard.link] != [first]
    assert stranger.get(f"/?{urlsplit(guard.link).query}").status_code == 303


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/act", {}),
        ("/?token=", {}),
        ("/?token=%F0%9F%98%80", {}),
        ("/?token=a&token=b", {}),
        ("/act?token=VALID", {}),
        ("/", {"cookie": "likeness_review_8123=wrong"}),
        ("/", {"cookie": "likeness_review_8123="}),
        ("/", {"cookie": "\x00;=;;"}),
    ],
)
def test_nothing_is_shown_without_the_token(path: str, headers: dict[str, str]):
    guard = make_guard()
    refused = open_client(guard).get(path.replace("VALID", guard.link.partition("=")[2]), headers=headers)
    assert refused.status_code == 403 and "secret" not in refused.text and "set-cookie" not in refused.headers


@pytest.mark.parametrize(
    "host", ["evil.example:8123", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8123", "x@127.0.0.1:8123", "["]
)
def test_a_foreign_host_is_refused_even_with_the_cookie(host: str):
    client = enter(make_guard())
    assert client.get("/", headers={"host": host}).status_code == 421
    assert client.get("/", headers={"host": "localhost:8123"}).status_code == 200


def test_a_request_that_changes_something_needs_the_own_origin():
    client = enter(make_guard())
    assert client.post("/act").status_code == 403
    for origin in ("http://evil.example", "null", "https://127.0.0.1:8123", "http://127.0.0.1:9"):
        assert client.post("/act", headers={"origin": origin}).status_code == 403
        assert client.get("/", headers={"origin": origin}).status_code == 403
    assert client.get("/act", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/act", headers={"origin": BASE}).text == "secret picture"


def test_every_answer_forbids_foreign_scripts_frames_and_caches():
    guard = make_guard()
    for client in (open_client(guard), enter(guard)):
        headers = client.get("/").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_a_server_on_all_addresses_accepts_addresses_and_no_names():
    guard = make_guard("0.0.0.0")
    assert guard.link.startswith("http://127.0.0.1:8123/")
    assert enter(guard, "http://192.168.1.7:8123").get("/").status_code == 200
    assert enter(guard, "http://[fe80::1]:8123").get("/").status_code == 200
    assert open_client(guard, "http://evil.example:8123").get("/").status_code == 421


def test_loopback_addresses_are_known():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.3.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.7", "example.org")))
