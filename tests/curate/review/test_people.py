"""Tests the page of all people, and the files that the server sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from curate.decisions.decide import decide
from manifests.ledger.records import Identity, Membership
from tests.doubles.curation import album, curated, install, rows
from tests.doubles.review.client import review_dataset


def test_the_wall_shows_all_people_of_the_ledger(dataset: Path):
    with review_dataset(dataset) as review:
        assert "People" in review.client.get("/").text
        answer = review.get("/api/people")
        assert answer["total"] == 4 and [row["faces"] for row in answer["rows"]] == [5, 5, 5, 5]
        assert {row["id"] for row in answer["rows"]} == {row.identity_id for row in rows(dataset, Identity)}
        second = review.get("/api/people", start=1, count=1)
        assert second["rows"] == answer["rows"][1:2] and second["total"] == 4


def test_a_search_finds_names_files_and_ids(dataset: Path):
    person, face = rows(dataset, Membership)[0].identity_id, rows(dataset, Membership)[0].face_id
    decide(dataset, [{"kind": "rename", "faces": [person], "name": "Ada <b>Lovelace</b>"}])
    with review_dataset(dataset) as review:
        for word in ("ada <B>", person, face[:12]):
            assert [row["id"] for row in review.list_people(search=word)] == [person]
        assert len(review.list_people(search="2.png")) == 4 and review.list_people(search="nobody") == []
        assert len(review.list_people(show="unnamed")) == 3 and len(review.list_people(show="undecided")) == 3
        assert review.list_people(order="name")[0]["id"] == person
        page = review.client.get(f"/person/{person}").text
        assert "Ada &lt;b&gt;Lovelace" in page and "<b>Lovelace" not in page


def test_the_faces_of_a_person_are_sorted_and_filtered(dataset: Path):
    with review_dataset(dataset) as review:
        person = review.list_people()[0]["id"]
        answer = review.get(f"/api/people/{person}/faces")
        confidences = [row["confidence"] for row in answer["rows"]]
        assert confidences == sorted(confidences) and len(confidences) == 5 == answer["person"]["faces"]
        sharp = sorted(row["sharpness"] for row in answer["rows"])
        kept = review.get(f"/api/people/{person}/faces", sharpness=sharp[2] - 0.0005)
        assert [row["sharpness"] >= sharp[2] for row in kept["rows"]] == [True] * kept["total"] and kept["total"] == 3
        assert review.get(f"/api/people/{person}/faces", pixels=121)["total"] == 0
        assert review.get(f"/api/people/{person}/faces", pixels=100, sharpness="nonsense")["total"] == 5
        facts = review.get(f"/api/faces/{answer['rows'][0]['id']}")
        assert facts["why"].startswith("The faces look alike") and facts["person"] == person and not facts["is_gone"]


@pytest.fixture
def own_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a dataset whose photos are in the folder `photos` beside it."""
    install(monkeypatch)
    curated(album(tmp_path / "photos", people=1, each=2), tmp_path / "own")
    return tmp_path / "own"


def test_a_photo_that_was_moved_is_said_to_be_gone(own_photos: Path, tmp_path: Path):
    with review_dataset(own_photos) as review:
        face = review.list_people()[0]["best"]
        photo = review.client.get(f"/source/{face}.webp")
        assert photo.headers["content-type"] == "image/webp"
        (tmp_path / "photos").rename(tmp_path / "elsewhere")
        assert review.client.get(f"/source/{face}.webp").status_code == 404
        assert review.get(f"/api/faces/{face}")["is_gone"]
        assert review.client.get(f"/thumbnail/{face}.webp").status_code == 200
        assert review.client.get(f"/crop/{face}.webp").status_code == 200


def test_a_photo_with_other_bytes_is_not_shown(own_photos: Path, tmp_path: Path):
    with review_dataset(own_photos) as review:
        face = review.list_people()[0]["best"]
        for path in (tmp_path / "photos").rglob("*.png"):
            path.write_bytes(path.read_bytes() + b"more")
        assert review.client.get(f"/source/{face}.webp").status_code == 404


def test_a_thumbnail_is_webp_is_made_once_and_holds_no_metadata(dataset: Path):
    with review_dataset(dataset) as review:
        best = review.list_people()[0]["best"]
        first = review.client.get(f"/thumbnail/{best}.webp")
        assert first.headers["content-type"] == "image/webp" and b"EXIF" not in first.content
        (stored,) = (dataset / "thumbnails").rglob("*.webp")
        assert stored.read_bytes() == first.content
        stored.write_bytes(b"stored once")
        assert review.client.get(f"/thumbnail/{best}.webp").content == b"stored once"


@pytest.mark.parametrize(
    "path",
    [
        "/thumbnail/unknown.webp",
        "/thumbnail/..%2F..%2Fmanifest.duckdb",
        "/thumbnail/../manifest.duckdb",
        "/source/..%2Fmanifest.duckdb.webp",
        "/static/..%2Fserver.py",
        "/static/../server.py",
        "/static/%2Fetc%2Fpasswd",
        "/person/..%2F..%2Fetc%2Fpasswd",
        "/person/<script>alert(1)</script>",
        "/etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_path_from_the_browser_is_opened(dataset: Path, path: str):
    with review_dataset(dataset) as review:
        answer = review.client.get(path)
        assert answer.status_code == 404 and b"duckdb" not in answer.content and b"import" not in answer.content
        assert b"<script>alert" not in answer.content


def test_the_pages_follow_a_decision_of_another_command(dataset: Path):
    with review_dataset(dataset) as review:
        first, second = (row["id"] for row in review.list_people()[:2])
        decide(dataset, [{"kind": "merge", "sides": [first, second]}])
        assert [row["faces"] for row in review.list_people()] == [10, 5, 5]
