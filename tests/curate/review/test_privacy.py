"""Tests that the review keeps nothing of a purged person, and shows no photo without consent."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import THUMBNAILS, VISIT_NAME
from manifests.ledger.records import Photo
from manifests.privacy.purge import purge
from manifests.privacy.purge_plan import plan_purge
from tests.doubles.review import review_dataset
from tests.doubles.reviewed_dataset import SET, make_result


def test_a_purge_removes_the_person_from_the_files_of_the_review(dataset: Path):
    with review_dataset(dataset) as review:
        people = review.list_people()
        for row in people:
            assert review.client.get(f"/thumbnail/{row['best']}.webp").status_code == 200
    gone = people[0]["id"]
    assert len(json.loads((dataset / VISIT_NAME).read_bytes())[gone]) == 5
    done = purge(dataset, plan_purge(dataset, [gone]))
    assert done.proof.remains == () and not (dataset / THUMBNAILS).exists()
    seen = json.loads((dataset / VISIT_NAME).read_bytes())
    assert set(seen) == {row["id"] for row in people[1:]}


def test_a_broken_list_of_seen_faces_counts_as_a_first_visit(dataset: Path):
    (dataset / VISIT_NAME).write_text('{"p-1": 7}')
    with review_dataset(dataset) as review:
        assert review.get("/api/state")["state"]["joined"] == 0
    assert len(json.loads((dataset / VISIT_NAME).read_bytes())) == 4
    (dataset / VISIT_NAME).write_text("[]")
    with review_dataset(dataset) as review:
        purge(dataset, plan_purge(dataset, [review.list_people()[0]["id"]]))
        assert not (dataset / VISIT_NAME).exists() and len(review.list_people()) == 3


def test_no_picture_of_a_photo_without_consent_is_shown(dataset: Path):
    with review_dataset(dataset) as review:
        face = review.list_people()[0]["best"]
        photo = review.session.read().people.faces[face].photo_id
        with Ledger.open(dataset, write=True) as ledger:
            (row,) = ledger.read_rows(Photo, "photo_id = ?", photo)
            ledger.record("consent", "test", {}, [Photo(**{**vars(row), "consent": "withdrawn"})])
        for kind in ("thumbnail", "crop", "source"):
            assert review.client.get(f"/{kind}/{face}.webp").status_code == 404


def test_no_area_shows_a_picture_of_a_photo_without_consent(made: Path, tmp_path: Path):
    dataset = tmp_path / "dataset"
    shutil.copytree(made, dataset)
    make_result(dataset, dataset / "run")
    with Ledger.open(dataset) as ledger:
        face, photo = ledger.query("SELECT face_id, photo_id FROM degradations JOIN faces USING (face_id)").row(0)
    with review_dataset(dataset) as review:
        links = re.findall(r"/picture/restored/[^\"]+", review.client.get("/runs").text)
        restored = next(link for link in links if face in link)
        pictures = (
            f"/picture/face/{face}.webp",
            f"/picture/photo/{photo}.webp",
            f"/picture/crop/64/{face}.png",
            f"/picture/lq/{SET}/{face}.png",
            restored,
        )
        assert [review.client.get(link).status_code for link in pictures] == [200] * 5
        with Ledger.open(dataset, write=True) as ledger:
            (row,) = ledger.read_rows(Photo, "photo_id = ?", photo)
            ledger.record("consent", "test", {}, [Photo(**{**vars(row), "consent": "withdrawn"})])
        assert [review.client.get(link).status_code for link in pictures] == [404] * 5
