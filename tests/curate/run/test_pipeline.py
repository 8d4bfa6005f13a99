"""Tests all stages together: every file has a row, no work is done twice, and there are no leaks."""

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import curate.detection.detect
import curate.people.split.splits
import curate.run.pipeline
from curate.config import CurateConfig, GroupRules, SplitRules
from curate.decisions.decide import decide
from curate.detection.crops import read_crop
from curate.detection.filter_files import set_min_inter_ocular
from curate.face_filters import DEFAULT, FILTER_SETS
from curate.faces.errors import FaceModelError
from curate.faces.interface import Detection
from manifests.check import UNFINISHED, check_ledger
from manifests.errors import BadInput, LedgerBroken, LedgerLocked
from manifests.ledger.filters import Filter, FilterSet
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face, File, Identity, Membership, Model, Pair, Photo, Split
from manifests.runtime.files import sha256_bytes
from manifests.runtime.uris import path_of
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import (
    album,
    contents,
    curated,
    curated_album,
    files,
    install,
    models,
    photo,
    rows,
    save,
    use_models,
)
from tests.doubles.pictures.png import png


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)


@pytest.fixture
def looked_at(monkeypatch):
    """Returns a list. The detector appends the shape of each photo that it gets."""
    calls: list[tuple[int, ...]] = []
    plain = models("double")

    def watched(spec: str):
        def detect(image: np.ndarray) -> list[Detection]:
            calls.append(image.shape)
            return plain.detect(image)

        return replace(models(spec), detect=detect)

    use_models(monkeypatch, watched)
    return calls


def reasons(dataset: Path, kind: type) -> dict[str, int]:
    return dict(Counter(row.reason or row.status for row in rows(dataset, kind)))


def by_name(dataset: Path) -> dict[str, str]:
    return {path_of(row.uri).name: row.reason or row.status for row in rows(dataset, File)}


def test_an_album_becomes_people_pairs_and_splits(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=5, each=4), tmp_path / "dataset"
    told = []
    summary = curate.run.pipeline.curate([photos], dataset, CurateConfig(), progress=lambda *step: told.append(step))
    assert (summary.files, summary.photos, summary.faces) == ({"ok": 20}, {"ok": 20}, {"ok": 20})
    assert (summary.identities, summary.alone, summary.largest, summary.set_aside) == (5, 0, 4, 0)
    assert sum(summary.pairs.values()) == 20 and min(summary.pairs.values()) >= 4 and summary.notices == ()
    assert [stage for stage, done, total in told if done == total] == ["scan", "detect", "group", "compare"]
    assert check_ledger(dataset) == []
    folder_of = {row.photo_id: path_of(row.uri).parent.name for row in rows(dataset, File)}
    photo_of = {row.face_id: row.photo_id for row in rows(dataset, Face)}
    named = {(folder_of[photo_of[row.face_id]], row.identity_id) for row in rows(dataset, Membership)}
    assert len(named) == 5 == len({folder for folder, _ in named}) == len(rows(dataset, Identity))
    for pair in rows(dataset, Pair):
        assert {folder_of[photo_of[ref]] for ref in pair.refs} == {folder_of[photo_of[pair.target]]}
    (recognizer,) = [row for row in rows(dataset, Model) if row.role == "recognizer"]
    assert recognizer.dim == 3 and recognizer.spec == "double" and len(recognizer.sha256) == 64


def test_crops_are_in_the_template_and_carry_no_metadata(tmp_path):
    dataset = tmp_path / "dataset"
    save(tmp_path / "p" / "a.png", photo([2, 3], 0))
    curated(tmp_path / "p", dataset)
    for face in rows(dataset, Face):
        crop = read_crop(dataset, face.face_id)
        assert crop.shape == (512, 512, 3) and crop.dtype == np.uint8
        data = crop_path(dataset, face.face_id).read_bytes()
        assert not any(chunk in data for chunk in (b"tEXt", b"eXIf", b"iCCP", b"tIME"))
        # The face fills the crop, so the middle of the crop must have the colour of the person.
        assert abs(float(np.linalg.norm(crop[200:300, 200:300].mean((0, 1)) - 128)) - 60) < 15
        assert face.upsample == pytest.approx(512 / 120, rel=0.01)


def test_the_same_command_again_changes_nothing_and_looks_at_nothing(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    (photos / "letter.jpg").write_text("x")
    (photos / "loop").symlink_to(photos)
    first = curated(photos, dataset)
    before, bytes_before, seen = contents(dataset), files(dataset), len(looked_at)
    assert curated(photos, dataset) == first
    assert contents(dataset) == before and files(dataset) == bytes_before and len(looked_at) == seen == 12


def test_one_more_photo_is_the_only_one_looked_at(tmp_path, looked_at):
    photos, dataset = curated_album(tmp_path)
    people, shards = {m.face_id: m.identity_id for m in rows(dataset, Membership)}, files(dataset)
    looked_at.clear()
    save(photos / "new.png", photo([1], 77))
    summary = curated(photos, dataset)
    assert len(looked_at) == 1 and summary.largest == 4
    after = {m.face_id: m.identity_id for m in rows(dataset, Membership)}
    assert people.items() <= after.items() and shards.items() <= files(dataset).items()
    assert check_ledger(dataset) == []


@pytest.mark.exhaustive
def test_a_hundred_more_photos_are_the_only_ones_looked_at(tmp_path, looked_at):
    photos, dataset = curated_album(tmp_path, people=4, each=3)
    before, kept = contents(dataset)["faces"], files(dataset)
    looked_at.clear()
    for number in range(100):
        save(photos / "more" / f"{number}.png", photo([number % 5], 100 + number))
    curated(photos, dataset)
    assert len(looked_at) == 100 and {row[0] for row in before} <= {row[0] for row in contents(dataset)["faces"]}
    assert kept.items() <= files(dataset).items()


def test_a_loosened_rule_brings_faces_back_without_a_detection_and_a_tightened_one_drops_them(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"
    for number in range(3):
        save(photos / f"small{number}.png", photo([4], number, side=60))
    strict = set_min_inter_ocular(DEFAULT, 20)
    assert curated(photos, dataset, screen=strict).faces == {"ok": 6, "too_small": 3}
    assert len(list((dataset / "faces").rglob("*.png"))) == 6
    looked_at.clear()
    loose = curated(photos, dataset, screen=set_min_inter_ocular(DEFAULT, 10))
    assert loose.faces == {"ok": 9} and loose.identities == 4 and looked_at == [] and check_ledger(dataset) == []
    once = tmp_path / "once"
    curated(photos, once, screen=set_min_inter_ocular(DEFAULT, 10))
    crops = {name: data for name, data in files(once).items() if name.startswith("faces")}
    assert crops == {name: data for name, data in files(dataset).items() if name.startswith("faces")}
    looked_at.clear()
    assert curated(photos, dataset, screen=strict).faces == {"ok": 6, "too_small": 3}
    assert looked_at == [] and check_ledger(dataset) == []
    assert curated(photos, dataset, screen=set_min_inter_ocular(DEFAULT, 10)).faces == {"ok": 9}


def test_a_set_of_ones_own_drops_with_its_reasons_and_another_set_brings_back(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"
    save(photos / "wide.png", photo([4, 5, 6], 0))
    wide = FilterSet("no groups", 3, (Filter("very_wide", "width > 400"), Filter("unsure", "det_score < 0.95")))
    assert curated(photos, dataset, screen=wide).faces == {"unsure": 6, "very_wide": 3}
    with Ledger.open(dataset) as ledger:
        told = ledger.read_detail("screen")
    assert (told["name"], told["version"], told["faces"], told["kept"]) == ("no groups", 3, 9, 0)
    assert [(rule["reason"], rule["first"], rule["alone"], rule["only"]) for rule in told["filters"]] == [
        ("very_wide", 3, 3, 0),
        ("unsure", 6, 9, 6),
    ]
    said = "\n".join(explain_photo(dataset, "wide.png")[0])
    assert "dropped, very_wide by width > 400, filters no groups, version 3" in said
    looked_at.clear()
    assert curated(photos, dataset).faces == {"ok": 9} and looked_at == [] and check_ledger(dataset) == []
    assert curated(photos, dataset, screen=wide).faces == {"unsure": 6, "very_wide": 3}


def test_a_filter_on_facts_about_the_photo_works_when_faces_are_detected_and_later(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"
    save(photos / "gray.png", np.repeat(photo([4], 0).mean(2, keepdims=True).astype(np.uint8), 3, axis=2))
    save(photos / "poor.jpg", photo([5], 0), cv2.IMWRITE_JPEG_QUALITY, 30)
    facts = FilterSet("facts", 1, (Filter("no_colours", "gray"), Filter("poor_file", "jpeg_quality < 40")))
    # `no_colours` also drops the two faces of the first person of the doubles, who is gray
    dropped = {"ok": 4, "no_colours": 3, "poor_file": 1}
    assert curated(photos, dataset, screen=facts).faces == dropped
    assert curated(photos, dataset).faces == {"ok": 8}
    looked_at.clear()
    assert curated(photos, dataset, screen=facts).faces == dropped and looked_at == []


def test_a_killed_run_leaves_reasons_that_the_next_set_knows(tmp_path, monkeypatch):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"

    def killed(*_):
        raise KeyboardInterrupt

    none = FilterSet("none", 1, (Filter("not_today", "true"),))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(curate.run.pipeline, "screen", killed)
        curated(photos, dataset, screen=none)
    assert reasons(dataset, Face) == {"not_today": 6} and check_ledger(dataset) == [UNFINISHED]
    assert curated(photos, dataset).faces == {"ok": 6} and check_ledger(dataset) == []


def test_noise_is_measured_and_a_filter_on_it_needs_no_detection(tmp_path, looked_at):
    photos, dataset = curated_album(tmp_path, people=3, each=2)
    faces = rows(dataset, Face)
    assert all(face.noise is not None and face.noise > 0 for face in faces)
    looked_at.clear()
    noisy = FilterSet("quiet", 1, (Filter("too_noisy", "noise >= 0"),))
    assert curated(photos, dataset, screen=noisy).faces == {"too_noisy": 6}
    assert [face.noise for face in rows(dataset, Face)] == [face.noise for face in faces]
    assert looked_at == []


def test_a_test_face_with_a_part_outside_its_photo_is_only_a_reference(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos", people=4, each=2), tmp_path / "dataset"
    for person in range(4):
        # cuts the photo, so that a quarter of the face is below the border of the photo
        save(photos / f"cut{person}.png", photo([person], 9)[:120])
    summary = curated(photos, dataset, split=SplitRules(test=0.5))
    faces = {face.face_id: face for face in rows(dataset, Face)}
    assert sorted({round(face.outside, 1) for face in faces.values()}) == [0.0, 0.3]
    cut = {name for name, face in faces.items() if face.outside > 0.1}
    split_of = {row.face_id: row.split for row in rows(dataset, Split)}
    left_out = {name for name in cut if split_of[name] == "test"}
    assert len(cut) == 4 and summary.unpaired == {"outside_photo": len(left_out)} and left_out
    pairs = rows(dataset, Pair)
    assert {row.target for row in pairs} == faces.keys() - left_out
    assert left_out <= {ref for row in pairs for ref in row.refs} and check_ledger(dataset) == []
    said = "\n".join(explain_photo(dataset, min(left_out))[0])
    assert "not a target: outside_photo by outside > 0.1, filters default, version 2 (outside 0.2" in said

    # After a decision, these faces are still no targets. With other filters, they become targets without a new
    # detection.
    decide(dataset, [{"kind": "lock", "faces": [min(cut)]}])
    assert {row.target for row in rows(dataset, Pair)} == faces.keys() - left_out
    looked_at.clear()
    summary = curated(photos, dataset, split=SplitRules(test=0.5), screen=FILTER_SETS["keep-outside"])
    assert summary.unpaired == {} and len(rows(dataset, Pair)) == 12 and looked_at == []


def test_a_bad_predicate_ends_the_run_before_any_photo_is_looked_at(tmp_path, looked_at):
    photos = album(tmp_path / "photos", people=1, each=1)
    with pytest.raises(BadInput, match="names jaw"):
        curated(photos, tmp_path / "d", screen=FilterSet("mine", 1, (Filter("odd", "jaw > 1"),)))
    assert looked_at == []


def test_the_same_file_and_the_same_picture_again(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=3, each=3), tmp_path / "dataset"
    shutil.copy(photos / "person0" / "0.png", photos / "copy.png")
    twice = cv2.resize(photo([0], 1), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    save(photos / "large.jpg", twice, cv2.IMWRITE_JPEG_QUALITY, 92)
    summary = curated(photos, dataset)
    assert summary.files == {"ok": 10, "same_file": 1} and summary.faces == {"near_duplicate": 1, "ok": 9}
    assert by_name(dataset)["0.png"] == "ok" or by_name(dataset)["copy.png"] == "ok"
    dropped = next(face for face in rows(dataset, Face) if face.duplicate_of)
    assert "which is used because this copy is" in explain_photo(dataset, dropped.face_id)[0][-1]
    assert dropped.face_id not in {m.face_id for m in rows(dataset, Membership)} and check_ledger(dataset) == []


def test_a_photo_is_read_from_another_of_its_files_when_the_first_has_gone(tmp_path, monkeypatch):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    first = save(photos / "a.png", photo([0], 0))
    shutil.copy(first, photos / "b.png")
    scan = curate.run.pipeline.scan

    def scan_then_lose(*arguments):
        told = scan(*arguments)
        first.unlink()
        return told

    with monkeypatch.context() as patch:
        patch.setattr(curate.run.pipeline, "scan", scan_then_lose)
        summary = curated(photos, dataset)
    assert summary.faces == {"ok": 1} and by_name(dataset) == {"a.png": "ok", "b.png": "same_file"}
    # The crop can still be cut again, from the other file of the photo.
    (face,) = rows(dataset, Face)
    crop_path(dataset, face.face_id).unlink()
    curated(photos, dataset)
    assert check_ledger(dataset) == []


def test_a_file_that_vanishes_or_changes_before_it_is_looked_at_is_a_row_and_comes_back(tmp_path, monkeypatch):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"
    gone, changed = photos / "person0" / "0.png", photos / "person1" / "0.png"
    data, scan = gone.read_bytes(), curate.run.pipeline.scan

    def scan_then_lose(*arguments):
        told = scan(*arguments)
        gone.unlink()
        save(changed, photo([9], 5))
        return told

    with monkeypatch.context() as patch:
        patch.setattr(curate.run.pipeline, "scan", scan_then_lose)
        summary = curated(photos, dataset)
    assert summary.photos == {"file_vanished_or_changed": 2, "ok": 4} and summary.faces == {"ok": 4}
    assert check_ledger(dataset) == []
    gone.write_bytes(data)
    summary = curated(photos, dataset)
    assert summary.photos == {"file_replaced": 1, "ok": 6} and summary.faces == {"ok": 6}


def test_an_overwritten_photo_leaves_with_its_faces_and_comes_back_with_its_file(tmp_path, monkeypatch):
    photos, dataset = curated_album(tmp_path, people=3, each=3)
    before, shards = contents(dataset), files(dataset)
    path = photos / "person0" / "0.png"
    data = path.read_bytes()
    photo_id = sha256_bytes(data)
    (face,) = [row for row in rows(dataset, Face) if row.photo_id == photo_id]
    for content in (cv2.imencode(".png", photo([9], 5))[1].tobytes(), b"Dear photograph"):
        path.write_bytes(content)
        summary = curated(photos, dataset)
        assert summary.photos["file_replaced"] == summary.faces["file_replaced"]
        assert face.face_id not in {row.face_id for row in rows(dataset, Membership)} and check_ledger(dataset) == []
        used = {name for pair in rows(dataset, Pair) for name in (pair.target, *pair.refs)}
        assert used and face.face_id not in used
        assert curated(photos, dataset) == summary
    for name in (photo_id[:8], face.face_id[:8]):
        lines, (found,) = explain_photo(dataset, name)
        assert found["uri"] is None and len(found["faces"]) == 1
        assert lines[0] == "no file contains the photo any more: dropped, file_replaced" and "file_replaced" in lines[2]
    path.write_bytes(data)
    curated(photos, dataset)
    after = contents(dataset)
    assert face in rows(dataset, Face) and check_ledger(dataset) == [] and shards.items() <= files(dataset).items()
    assert after["pairs"] == before["pairs"] and after["splits"] == before["splits"]


def test_a_file_that_vanished_or_cannot_be_read_keeps_its_photo(tmp_path, monkeypatch):
    photos, dataset = album(tmp_path / "photos", people=3, each=3), tmp_path / "dataset"
    link = photos / "link.png"
    save(photos / "elsewhere.png", photo([0], 50))
    link.symlink_to(photos / "elsewhere.png")
    first = curated(photos, dataset)
    assert first.files == {"ok": 10, "same_file": 1}
    (photos / "person0" / "0.png").unlink()
    (photos / "elsewhere.png").unlink()
    os.utime(photos / "person1" / "0.png", ns=(1, 1))
    opened = Path.open

    def guarded(self: Path, *args, **named):
        if self == photos / "person1" / "0.png":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **named)

    monkeypatch.setattr(Path, "open", guarded)
    for _ in range(2):
        summary = curated(photos, dataset)
        assert (summary.photos, summary.faces, summary.pairs) == (first.photos, first.faces, first.pairs)
        counts = {"broken_symlink": 1, "file_gone": 2, "ok": 7, "unreadable_file": 1}
        assert summary.files == counts and check_ledger(dataset) == []
        (said,) = [notice for notice in summary.notices if "no longer there" in notice]
        assert said.startswith("2 files that contained photos are no longer there, for example ")
        assert "elsewhere.png. " in said
        assert explain_photo(dataset, "person0/0.png")[0][0].endswith(
            ": dropped, file_gone, the file does not exist any more"
        )
    # The link is replaced by a folder, and the photo to which it led is replaced by another photo.
    link.unlink()
    save(link / "other.png", photo([2], 51))
    save(photos / "elsewhere.png", photo([2], 52))
    summary = curated(photos, dataset)
    assert summary.files == {"file_gone": 1, "ok": 9, "unreadable_file": 1}
    assert summary.photos == {"file_replaced": 1, "ok": 11}


def test_the_row_of_what_could_not_be_walked_goes_once_it_is(tmp_path, monkeypatch):
    photos, dataset, iterdir = tmp_path / "photos", tmp_path / "dataset", Path.iterdir
    (photos / "locked").mkdir(parents=True)
    (photos / "link").symlink_to("nowhere")

    def guarded(self: Path):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", guarded)
        assert curated(photos, dataset).files == {"broken_symlink": 1, "unreadable_folder": 1}
    (photos / "nowhere").mkdir()
    (photos / "link").unlink()
    (photos / "link").mkdir()
    assert curated(photos, dataset).files == {}


def test_a_collage_of_one_person_leaves_that_person_whole(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=1, each=3), tmp_path / "dataset"
    faces = [photo([0], number) for number in range(3)]
    small = cv2.resize(np.vstack(faces), None, fx=0.9, fy=0.9, interpolation=cv2.INTER_AREA)
    save(photos / "collage.png", small)
    summary = curated(photos, dataset)
    assert summary.faces == {"near_duplicate": 3, "ok": 3} and summary.largest == 3 and check_ledger(dataset) == []


def test_a_lost_crop_and_lost_or_broken_embeddings_are_made_anew(tmp_path):
    photos, dataset = curated_album(tmp_path, people=4, each=20)
    before, whole = contents(dataset), files(dataset)
    shards = sorted((dataset / "embeddings").iterdir())
    assert len(shards) > 2
    next((dataset / "faces").rglob("*.png")).unlink()
    shards[0].unlink()
    shards[1].write_bytes(b"")
    (dataset / "faces" / ".half.png.99.tmp").write_bytes(b"left by a kill")
    assert len(check_ledger(dataset)) > 2
    curated(photos, dataset)
    assert files(dataset) == whole and check_ledger(dataset) == []
    after = contents(dataset)
    assert {name: after[name] for name in after if name != "stages"} == {n: before[n] for n in before if n != "stages"}


def test_a_broken_crop_whose_embedding_is_lost_costs_its_face_one_run(tmp_path):
    photos, dataset = curated_album(tmp_path, people=2, each=3)
    crop = next((dataset / "faces").rglob("*.png"))
    whole = crop.read_bytes()
    crop.write_bytes(b"no picture")
    next((dataset / "embeddings").iterdir()).unlink()
    assert curated(photos, dataset).faces == {"ok": 5, "crop_missing": 1}
    assert curated(photos, dataset).faces == {"ok": 6} and crop.read_bytes() == whole and check_ledger(dataset) == []
    crop.write_bytes(b"no picture")
    next((dataset / "embeddings").iterdir()).unlink()
    curated(photos, dataset)
    away = photos.rename(tmp_path / "away")
    # the photo is missing, so the broken crop cannot be cut again and must not count as complete in any run
    for _ in range(3):
        assert curated(photos.mkdir() or photos, dataset).faces == {"ok": 5, "file_vanished_or_changed": 1}
        photos.rmdir()
    crop.write_bytes(whole)
    photos.mkdir()
    assert curated(photos, dataset).faces == {"ok": 6}
    photos.rmdir()
    away.rename(photos)
    assert curated(photos, dataset).faces == {"ok": 6} and check_ledger(dataset) == []


def test_another_recognizer_is_refused_and_nothing_changes(tmp_path):
    photos, dataset = curated_album(tmp_path, people=2, each=2)
    before = contents(dataset)
    with pytest.raises(BadInput, match="Give --faces double"):
        curated(photos, dataset, faces="other")
    assert contents(dataset) == before
    assert curated(photos, dataset, faces="auto").faces_from == "double"


def test_another_detector_looks_again_and_what_it_misses_is_marked(tmp_path, monkeypatch):
    photos, dataset = curated_album(tmp_path, people=3, each=2)
    other = replace(models("double").files[0], path=Path(curate.run.pipeline.__file__))

    def another(spec: str):
        plain = models(spec)

        def detect(image: np.ndarray) -> list[Detection]:
            return [] if image[80:100, 90:110, 2].mean() < 110 else plain.detect(image)

        return replace(plain, detect=detect, files=(other, plain.files[1]))

    use_models(monkeypatch, another)
    summary = curated(photos, dataset)
    lost = summary.faces["not_found_again"]
    assert lost == 2 and summary.faces["ok"] == 6 - lost and summary.photos["no_face"] == lost
    assert check_ledger(dataset) == []
    assert [row.file for row in rows(dataset, Model) if row.role == "detector"] == [
        Path(curate.run.pipeline.__file__).name
    ]
    assert curated(photos, dataset).faces == summary.faces


def test_two_faces_in_a_photo_are_one_person_only_in_a_collage_and_with_the_option(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=3, each=5), tmp_path / "dataset"
    save(photos / "strip.png", np.hstack([photo([person], seed) for person, seed in ((0, 7), (0, 8), (1, 7))]))
    summary = curated(photos, dataset)
    # Person 0 is known from other photos. Both faces of person 0 in the strip look alike, so both join person 0.
    assert (summary.identities, summary.alone, summary.largest) == (3, 0, 6)
    (said,) = [notice for notice in summary.notices if "twice" in notice]
    assert said.startswith("1 picture seems to show one person twice: strip.png.")
    # Person 3 is not known from other photos. A notice names the picture, and its faces are joined only with the option
    # --collages.
    save(photos / "pair.png", np.hstack([photo([3], seed) for seed in (7, 8)]))
    summary = curated(photos, dataset)
    assert (summary.identities, summary.alone) == (3, 2)
    (said,) = [notice for notice in summary.notices if "collage" in notice]
    assert said.startswith("1 picture looks like a collage: pair.png. With --collages, 1 face")
    summary = curated(photos, dataset, group=GroupRules(one_person_may_appear_twice=True))
    assert (summary.identities, summary.alone) == (3, 1)
    assert len(rows(dataset, Membership)) == 20 and check_ledger(dataset) == []


def test_people_of_two_splits_in_one_photo_are_set_aside(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=8, each=3), tmp_path / "dataset"
    save(photos / "all.png", photo(list(range(8)), 99))
    summary = curated(photos, dataset)
    assert summary.set_aside == 8 and reasons(dataset, Split)["photo_spans_splits"] == 8 and check_ledger(dataset) == []


def test_one_person_is_told_about_split_photos_which_then_works(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=1, each=30), tmp_path / "dataset"
    summary = curated(photos, dataset)
    assert summary.pairs == {"train": 30, "val": 0, "test": 0} and "--split-by photos" in summary.notices[0]
    summary = curated(photos, dataset, split=SplitRules(policy="photos"))
    assert min(summary.pairs.values()) > 0 and summary.notices == () and check_ledger(dataset) == []
    side = {row.face_id: row.split for row in rows(dataset, Split)}
    assert {side[ref] for pair in rows(dataset, Pair) for ref in pair.refs} == {"train"}


def frozen(dataset: Path, split: str) -> list[Split]:
    """Locks all rows of a split, as a frozen set does, and returns the rows."""
    with Ledger.open(dataset, write=True) as ledger:
        held = [replace(row, locked=True) for row in ledger.read_rows(Split) if row.split == split]
        ledger.record("lock", "all", {}, held)
    return held


def test_a_run_that_moves_people_into_a_frozen_split_says_so_and_moves_nobody_else(tmp_path):
    photos, dataset = curated_album(tmp_path, people=5, each=4)
    held = frozen(dataset, "test")
    before = {row.face_id: row.split for row in rows(dataset, Split)}
    assert curated(photos, dataset).notices == ()
    person = {row.face_id: row.identity_id for row in rows(dataset, Membership)}
    name = {row.photo_id: path_of(row.uri) for row in rows(dataset, File)}
    folder = {row.face_id: name[row.photo_id] for row in rows(dataset, Face)}
    val = [face for face, split in before.items() if split == "val"]
    table = tmp_path / "who.csv"  # the table gives the same label to a person of test and to a person of val
    table.write_text(f"photo,label\n{folder[held[0].face_id]},A\n{folder[val[0]]},A\n")
    summary = curated(photos, dataset, labels=str(table))
    (said,) = [notice for notice in summary.notices if "change" in notice]
    assert "although a frozen set exists" in said and "from val to test" in said
    after = {row.face_id: row.split for row in rows(dataset, Split)}
    moved = {face for face in before if before[face] != after[face]}
    assert moved and {person[face] for face in moved} <= {person[face] for face in val} and check_ledger(dataset) == []


def test_another_split_policy_than_the_frozen_sets_is_refused_before_anything_is_done(tmp_path):
    photos, dataset = curated_album(tmp_path, people=5, each=4)
    frozen(dataset, "test")
    before = contents(dataset)
    save(photos / "new.png", photo([3], 99))
    with pytest.raises(BadInput, match="Give --split-by identity, or start a new dataset"):
        curated(photos, dataset, split=SplitRules(policy="photos"))
    assert contents(dataset) == before


def test_ids_stay_when_people_are_added(tmp_path):
    photos, dataset = curated_album(tmp_path, people=3, each=3)
    before = {m.face_id: m.identity_id for m in rows(dataset, Membership)}
    person = rows(dataset, Identity)[0]
    decide(dataset, [{"kind": "rename", "faces": [person.identity_id], "name": "Ann"}])
    album(photos, people=6, each=3)
    curated(photos, dataset)
    after = {m.face_id: m.identity_id for m in rows(dataset, Membership)}
    assert before.items() <= after.items() and len(set(after.values())) == 6
    assert replace(person, name="Ann") in rows(dataset, Identity)


BAD = {
    "zero.jpg": "empty_file",
    "letter.jpg": "not_an_image",
    "truncated.jpg": "truncated",
    "huge.png": "too_many_pixels",
    "loop": "symlink_loop",
    "up": "folder_already_walked",
    "gone.jpg": "broken_symlink",
    "pipe": "special_file",
    "locked": "unreadable_folder",
}


def test_bad_input_of_every_kind_leaves_the_rest_unharmed_and_a_rerun_resumes(tmp_path, monkeypatch):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    (photos / "zero.jpg").touch()
    (photos / "letter.jpg").write_text("Dear photograph")
    whole = cv2.imencode(".jpg", photo([0], 0))[1].tobytes()
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "huge.png").write_bytes(png(30_000, 30_000, 1, 0, bytes(3751 * 30_000)))
    (photos / "loop").symlink_to(photos / "loop")
    (photos / "up").symlink_to(photos)
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    os.mkfifo(photos / "pipe")
    save(photos / "locked" / "inside.png", photo([3], 50))
    save(photos / "nobody.png", photo([], 0))
    save(photos / "thin.png", np.zeros((1, 3000, 3), np.uint8))
    odd = Path(os.fsdecode(bytes(photos) + b"/new\nline \xff.png"))
    shutil.copy(photos / "person0" / "0.png", tmp_path / "x.png")
    odd.write_bytes(cv2.imencode(".png", photo([3], 60)[:, :, ::-1])[1].tobytes())
    iterdir = Path.iterdir

    def guarded(self: Path):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", guarded)
        summary = curated(photos, dataset)
    found = by_name(dataset)
    assert {name: found[name] for name in BAD} == BAD
    assert summary.files["ok"] == 15 and found[odd.name] == "ok"
    assert summary.photos == {"no_face": 2, "ok": 13} and summary.faces == {"ok": 13} and check_ledger(dataset) == []
    # When the folder can be read again, the rows of its files replace the row of the folder.
    summary = curated(photos, dataset)
    assert summary.faces == {"ok": 14} and "locked" not in by_name(dataset)


def test_photos_without_a_face_are_a_notice(tmp_path):
    save(tmp_path / "empty" / "nobody.png", photo([], 0))
    summary = curated(tmp_path / "empty", tmp_path / "dataset")
    assert summary.photos == {"no_face": 1} and "No face was found" in summary.notices[0]
    assert summary.identities == summary.alone == summary.largest == 0


def test_every_person_with_one_photo_is_a_notice(tmp_path):
    photos = album(tmp_path / "photos", people=5, each=1)
    summary = curated(photos, tmp_path / "dataset")
    assert summary.identities == 0 and summary.alone == 5 and set(summary.pairs.values()) == {0}
    assert "No person has two usable photos" in summary.notices[0] and check_ledger(tmp_path / "dataset") == []


def test_a_detector_that_fails_on_one_photo_does_not_end_the_run(tmp_path, monkeypatch):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"
    save(photos / "odd.png", np.zeros((7, 5, 3), np.uint8))
    plain = models("double")
    fail: list[type[Exception]] = [cv2.error]

    def fragile(spec: str):
        def detect(image: np.ndarray) -> list[Detection]:
            if image.shape[0] == 7:
                raise fail[0]("no keypoints")
            return plain.detect(image)

        return replace(plain, detect=detect)

    use_models(monkeypatch, fragile)
    summary = curated(photos, dataset)
    assert summary.photos == {"detector_failed": 1, "ok": 6} and check_ledger(dataset) == []
    fail[0] = FaceModelError  # from now on, the model fails completely, and this must end the run
    with pytest.raises(FaceModelError):
        curated(photos, tmp_path / "other")


@pytest.mark.parametrize("landmarks", [np.full((5, 2), np.nan), np.zeros((5, 2)), np.full((5, 2), 1e30)])
def test_a_detection_without_a_face_in_it_leaves_no_row(tmp_path, monkeypatch, landmarks):
    plain = models("double")
    none = [Detection(np.array([0, 0, 9, 9], np.float32), landmarks.astype(np.float32), 0.9)]
    use_models(monkeypatch, lambda spec: replace(plain, detect=lambda image: none))
    save(tmp_path / "p" / "a.png", photo([0], 0))
    summary = curated(tmp_path / "p", tmp_path / "dataset")
    assert summary.faces == {} and summary.photos == {"no_face": 1}


def test_a_face_without_an_embedding_fails_with_a_reason(tmp_path, monkeypatch):
    photos, dataset = album(tmp_path / "photos", people=2, each=2), tmp_path / "dataset"
    plain = models("double")

    def embed(crops: np.ndarray) -> np.ndarray:
        vectors = plain.embed(crops).copy()
        vectors[0], vectors[1] = np.nan, 0
        return vectors

    use_models(monkeypatch, lambda spec: replace(plain, embed=embed))
    summary = curated(photos, dataset)
    assert summary.faces == {"no_embedding": 2, "ok": 2} and check_ledger(dataset) == []
    assert curated(photos, dataset).faces == summary.faces


def test_what_cannot_be_a_dataset_is_a_sentence(tmp_path):
    photos = album(tmp_path / "photos", people=1, each=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        curated(photos, tmp_path / "file")
    with pytest.raises(BadInput, match="does not exist"):
        curated(tmp_path / "nowhere", tmp_path / "dataset")
    with pytest.raises(BadInput, match="--landmarks"):
        curated(photos, tmp_path / "dataset", landmarks="psychic")
    with pytest.raises(BadInput, match="--split"):
        curated(photos, tmp_path / "dataset", split=SplitRules(policy="sideways"))
    with Ledger.open(tmp_path / "locked", write=True), pytest.raises((LedgerLocked, BadInput)):
        curate.run.pipeline.curate([photos], tmp_path / "locked", CurateConfig(), workers=0)


def test_a_dataset_among_the_photos_is_not_curated_again(tmp_path):
    photos = album(tmp_path / "photos", people=2, each=2)
    first = curated(photos, photos / "dataset")
    assert first.files == {"dataset_folder": 1, "ok": 4}
    assert curated(photos, photos / "dataset") == first


def test_a_leak_ends_the_run(tmp_path, monkeypatch):
    photos = album(tmp_path / "photos", people=3, each=2)

    def leaky(faces, memberships, *_):
        sides = ("train", "val", "test")
        return [Split(m.face_id, m.identity_id, sides[i % 3], "identity") for i, m in enumerate(memberships)]

    monkeypatch.setattr(curate.people.split.splits, "make_splits", leaky)
    with pytest.raises(LedgerBroken, match="Leak between splits"):
        curated(photos, tmp_path / "dataset")
    assert rows(tmp_path / "dataset", Split) == []


def test_only_the_memory_of_a_batch_is_needed(tmp_path, monkeypatch):
    photos = album(tmp_path / "photos", people=4, each=20)
    batches: list[int] = []
    plain = models("double")

    def embed(crops: np.ndarray) -> np.ndarray:
        batches.append(len(crops))
        return plain.embed(crops)

    use_models(monkeypatch, lambda spec: replace(plain, embed=embed))
    curated(photos, tmp_path / "dataset")
    assert max(batches) == 32 and sum(batches) == 80
    assert all(photo.status == "ok" for photo in rows(tmp_path / "dataset", Photo))
