"""Tests the wall of people, and the files that the server sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from curate.decisions.decide import decide
from manifests.ledger.records import Identity, Membership
from tests.doubles.curation import album, curated, install, rows
from tests.doubles.review import open_review


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch)
    curated(album(tmp_path / "photos", people=3, each=4), tmp_path / "dataset")
    return tmp_path / "dataset"


def test_the_wall_shows_all_people_of_the_ledger(dataset: Path):
    client = open_review(dataset)
    assert "People" in client.get("/").text
    answer = client.get("/api/people").json()
    assert answer["total"] == 3 and [row["faces"] for row in answer["rows"]] == [4, 4, 4]
    assert {row["id"] for row in answer["rows"]} == {row.identity_id for row in rows(dataset, Identity)}
    second = client.get("/api/people?start=1&count=1").json()
    assert second["rows"] == answer["rows"][1:2] and second["total"] == 3


def test_a_search_finds_names_files_and_ids(dataset: Path):
    person, face = rows(dataset, Membership)[0].identity_id, rows(dataset, Membership)[0].face_id
    decide(dataset, [{"kind": "rename", "faces": [person], "name": "Ada <b>Lovelace</b>"}])
    client = open_review(dataset)
    for word in ("ada <B>", person, face[:12]):
        assert [row["id"] for row in client.get("/api/people", params={"search": word}).json()["rows"]] == [person]
    assert client.get("/api/people?search=2.png").json()["total"] == 3
    assert client.get("/api/people?search=nobody").json()["rows"] == []
    assert client.get("/api/people?show=unnamed").json()["total"] == 2
    assert client.get("/api/people?order=name").json()["rows"][0]["id"] == person


def test_a_thumbnail_is_webp_is_made_once_and_holds_no_metadata(dataset: Path):
    client = open_review(dataset)
    best = client.get("/api/people").json()["rows"][0]["best"]
    first = client.get(f"/thumbnail/{best}.webp")
    assert first.headers["content-type"] == "image/webp" and b"EXIF" not in first.content
    (stored,) = (dataset / "thumbnails").rglob("*.webp")
    assert stored.read_bytes() == first.content
    stored.write_bytes(b"stored once")
    assert client.get(f"/thumbnail/{best}.webp").content == b"stored once"


@pytest.mark.parametrize(
    "path",
    [
        "/thumbnail/unknown.webp",
        "/thumbnail/..%2F..%2Fmanifest.duckdb",
        "/thumbnail/../manifest.duckdb",
        "/static/..%2Fserver.py",
        "/static/../server.py",
        "/static/%2Fetc%2Fpasswd",
        "/etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_path_from_the_browser_is_opened(dataset: Path, path: str):
    answer = open_review(dataset).get(path)
    assert answer.status_code == 404 and b"duckdb" not in answer.content and b"import" not in answer.content


def test_the_pages_follow_a_decision_of_another_command(dataset: Path):
    client = open_review(dataset)
    first, second = (row["id"] for row in client.get("/api/people").json()["rows"][:2])
    decide(dataset, [{"kind": "merge", "sides": [first, second]}])
    assert [row["faces"] for row in client.get("/api/people").json()["rows"]] == [8, 4]
