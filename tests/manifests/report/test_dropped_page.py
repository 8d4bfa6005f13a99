"""Tests the page of unused faces: each reason with a few pictures, and no face that must not be shown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from curate.decisions.decide import decide
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face, Photo, Split
from manifests.report import dropped_page
from manifests.report.build_report import build_report
from manifests.report.dropped_page import read_dropped_faces
from manifests.report.people_pages import list_people
from manifests.report.sections.intake_section import read_filters
from tests.doubles.curation import curated_album, install, rows
from tests.doubles.exports import change


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a dataset of four people with three photos each."""
    install(monkeypatch)
    _, dataset = curated_album(tmp_path)
    return dataset


def groups(dataset: Path) -> dict[str, dict]:
    with Ledger.open(dataset) as ledger:
        return {group["code"]: group for group in read_dropped_faces(ledger, list_people(ledger).short_id)}


def drop(dataset: Path, faces: list[Face], reason: str, **more) -> None:
    change(dataset, [replace(face, status="dropped", reason=reason, **more) for face in faces])


def test_each_reason_is_shown_with_a_bounded_number_of_pictures(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped_page, "FACES", 2)
    faces = rows(dataset, Face)
    decide(dataset, [{"kind": "drop", "faces": [faces[4].face_id]}])
    drop(dataset, faces[:3], "too_blurred")
    drop(dataset, faces[3:4], "near_duplicate", duplicate_of=faces[11].face_id)
    crop_path(dataset, faces[0].face_id).unlink()  # without the crop, the page must cut the picture from the photo
    aside = next(row for row in rows(dataset, Split) if row.face_id == faces[5].face_id)
    change(dataset, [replace(aside, status="dropped", reason="photo_spans_splits")])
    found = groups(dataset)
    assert {code: (group["faces"], len(group["images"])) for code, group in found.items()} == {
        "too_blurred": (3, 2), "near_duplicate": (1, 1), "decided": (1, 1), "photo_spans_splits": (1, 1),
    }  # fmt: skip
    assert next(iter(found)) == "too_blurred" and found["photo_spans_splits"]["kind"] == "set aside"
    assert all(face["image"] and face["link"] for group in found.values() for face in group["images"])
    assert faces[11].face_id.startswith(found["near_duplicate"]["images"][0]["used"])
    page = (build_report(dataset).parent / "dropped.html").read_text(encoding="utf-8")
    assert "3 faces dropped: too blurred <code>too_blurred</code>" in page and page.count("<img") == 5
    assert not re.search(r"<script|<link|@import|src=\"(?!data:)", page)


@pytest.mark.parametrize("change_photo", [{"consent": " No "}, {"status": "dropped", "reason": "consent_missing"}, {}])
def test_nobody_is_shown_who_opted_out_or_whose_photo_may_not_be_used(dataset: Path, change_photo: dict) -> None:
    one, other = rows(dataset, Face)[:2]
    # Both faces are put into one photo, so that the picture of the second face could also show the first face.
    drop(dataset, [replace(other, photo_id=one.photo_id)], "too_dark")
    drop(dataset, [one], "too_dark" if change_photo else "opted_out")
    photo = next(row for row in rows(dataset, Photo) if row.photo_id == one.photo_id)
    change(dataset, [replace(photo, **change_photo)])
    found = groups(dataset)
    assert sum(group["faces"] for group in found.values()) == 2
    assert all(group["images"] == [] for group in found.values())


def test_a_purged_face_and_a_photo_that_is_gone_cost_no_page(dataset: Path) -> None:
    faces = rows(dataset, Face)
    drop(dataset, faces[:1], "too_noisy")
    crop_path(dataset, faces[0].face_id).unlink()
    for path in (dataset.parent / "photos").rglob("*.png"):
        path.unlink()
    (found,) = groups(dataset).values()
    assert found["images"][0]["image"] == ""
    assert "Every face is used" not in (build_report(dataset).parent / "dropped.html").read_text(encoding="utf-8")


def test_the_examples_of_a_filter_hide_the_same_people(dataset: Path) -> None:
    one, other = rows(dataset, Face)[:2]
    drop(dataset, [one, other], "too_dark")
    rule = {"reason": "too_dark", "sql": "exposure < 1", "first": 2, "alone": 2, "only": 2}
    detail = {"name": "mine", "version": 1, "faces": 2, "kept": 0, "filters": [rule]}
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("screen", "all", {}, detail=detail)
        assert len(read_filters(ledger)["filters"][0]["faces"]) == 2
    photo = next(row for row in rows(dataset, Photo) if row.photo_id == one.photo_id)
    change(dataset, [replace(photo, consent="withdrawn")])
    with Ledger.open(dataset) as ledger:
        assert len(read_filters(ledger)["filters"][0]["faces"]) == 1
