"""Tests what the pages of the review read from the ledger: copies, unused files, frozen sets, results and leaks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from curate.review.copies.copy_groups import count_groups, read_groups
from curate.review.frozen.set_images import find_lq_file, list_sets, read_images
from curate.review.leaks.leak_pairs import search_pairs
from curate.review.runs.run_results import find_image, list_images, list_run_folders, read_results
from curate.review.unused.unused_items import KINDS, may_show_photos, read_items, read_reasons
from curate.review.web.background import Job
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Photo
from manifests.pictures.images import decode
from manifests.runtime.files import sha256_file
from tests.doubles import curation as doubles
from tests.doubles.review.reviewed_dataset import SET, make_result


def test_groups_of_copies_say_which_copy_is_used_and_why_the_others_are_not(made: Path) -> None:
    with Ledger.open(made) as ledger:
        assert count_groups(ledger) == (2, 2)
        groups = read_groups(ledger, 0, 10)
        assert read_groups(ledger, 1, 10) == groups[1:]
    for group in groups:
        kept, other = group.copies
        assert kept.is_kept and not kept.reason and kept.eyes > other.eyes and not group.by_user
        assert other.reason == "is smaller" and other.file.startswith("small")


def test_unused_items_are_listed_by_reason_and_every_reason_has_an_advice(made: Path) -> None:
    with Ledger.open(made) as ledger:
        reasons = read_reasons(ledger)
        found = {(reason.kind, reason.code): reason.count for reason in reasons}
        assert found[("file", "not_an_image")] == found[("file", "same_file")] == found[("photo", "no_face")] == 1
        assert found[("face", "near_duplicate")] == 2
        assert all(reason.advice and reason.words and reason.kind in KINDS for reason in reasons)
        for reason in reasons:
            items = read_items(ledger, reason.kind, reason.code, 0, 100)
            assert len({item.item for item in items}) == len(items) == reason.count
            assert [item.item for item in read_items(ledger, reason.kind, reason.code, 1, 1)] == [
                item.item for item in items[1:2]
            ]
        (broken,) = read_items(ledger, "file", "not_an_image", 0, 9)
        assert broken.file == "broken.jpg" and not broken.can_show
        (empty,) = read_items(ledger, "photo", "no_face", 0, 9)
        assert empty.file == "empty.png" and empty.can_show
        copies = read_items(ledger, "face", "near_duplicate", 0, 9)
        assert all(copy.used and "px between the eyes" in copy.facts and copy.can_show for copy in copies)


def test_no_picture_of_a_photo_without_consent_is_shown(made: Path, tmp_path: Path) -> None:
    rows = doubles.rows(made, Photo)
    refused = next(row for row in rows if row.status == "ok")
    with Ledger.open(tmp_path, write=True) as ledger:
        photos = [replace(row, consent=" No ") if row == refused else row for row in rows]
        ledger.record("scan", "all", {}, [*photos, *doubles.rows(made, Face)])
        allowed = may_show_photos(ledger, [*(row.photo_id for row in rows), "unknown"])
        assert allowed == {row.photo_id for row in rows} - {refused.photo_id}
        hidden = [copy for group in read_groups(ledger, 0, 9) for copy in group.copies if copy.is_hidden]
        assert {copy.face_id for copy in hidden} <= {face.face_id for face in doubles.rows(made, Face)}


def test_images_of_a_frozen_set_have_their_references_and_only_recorded_files_are_found(made: Path) -> None:
    with Ledger.open(made) as ledger:
        (summary,) = list_sets(ledger)
        images = read_images(ledger, SET, 0, 99)
        assert (summary.lq_set, summary.size, summary.split, summary.images) == (SET, 32, "test", len(images))
        assert summary.unused == 0 and read_images(ledger, SET, 1, 1) == images[1:2]
        for image in images:
            assert image.references and image.face_id not in image.references and "JPEG" in image.degradation
            path, sha256 = find_lq_file(ledger, SET, image.face_id) or (Path(), "")
            assert sha256_file(path) == sha256
        for name, face in ((SET, "../../secret"), ("../lq", images[0].face_id), (SET, "")):
            assert find_lq_file(ledger, name, face) is None


def test_results_of_a_run_come_with_the_worst_image_first(made: Path, tmp_path: Path) -> None:
    faces = make_result(made, tmp_path / "run")
    make_result(made, tmp_path / "damaged", broken=True)
    with Ledger.open(made) as ledger:
        folders = list_run_folders(ledger, [tmp_path / "run", tmp_path / "damaged", tmp_path / "missing"])
        assert folders == [tmp_path / "run", tmp_path / "damaged"]
        (result,), sentences = read_results(ledger, folders)
    assert sentences == [
        "damaged/evaluation.json is damaged, or another version of Likeness wrote it: run the evaluation again."
    ]
    assert result.systems == {"0": "no reference", "2": "restored"} and result.first_system == "2"
    images = list_images(result, "2", "psnr", 0, 99)
    assert [image.face_id for image in images] == faces and result.first_metric == "psnr"
    assert images[0].figures == (("PSNR, dB", "10.0", "30.0"), ("LPIPS", "0.5", "0.5"))
    assert (decode(images[1].file or Path()) == 1).all()
    assert list_images(result, "0", "psnr", 0, 1)[0].file is None  # the system `0` has no images
    assert find_image(result, "2", "../evaluation") is None and find_image(result, "2", "0" * 32) is None


def test_a_job_runs_once_for_a_key_and_keeps_its_result_or_its_sentence() -> None:
    calls: list[str] = []

    def work(word: str, report) -> str:  # type: ignore[no-untyped-def]
        calls.append(word)
        report("half", 1, 2)
        if word == "bad":
            raise BadInput("The word is bad: give another word.")
        return word * 2

    job = Job(work, in_thread=True)
    assert job.read("a")[0].state == "idle"
    for key, word in (("a", "x"), ("a", "x"), ("b", "bad"), ("b", "bad")):
        job.start(key, word)
        _wait(job, key)
    assert calls == ["x", "bad", "bad"]  # a call that failed is repeated, and a call that returned is not
    assert job.read("b")[0].problem == "The word is bad: give another word." and job.read("a")[0].state == "idle"


def test_a_job_in_another_process_reports_and_returns(made: Path) -> None:
    job = Job(search_pairs)
    job.start("k", made)
    _wait(job, "k", 60)
    status, pairs = job.read("k")
    assert status.state == "done" and pairs == search_pairs(made, lambda *_: None)
    job.start("other", made / "missing")
    _wait(job, "other", 60)
    assert "contains no manifest.duckdb" in job.read("other")[0].problem
    job.stop()


def _wait(job: Job, key: str, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while job.read(key)[0].state == "running":
        assert time.monotonic() < end
        time.sleep(0.01)
