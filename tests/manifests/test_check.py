"""Tests that `check_ledger` finds every kind of contradiction, and no problem in a correct dataset."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Degradation, Face, File, Membership, Pair, Split
from manifests.runtime.files import sha256_bytes, write_atomically
from tests.doubles.curation import album, curated, install, photo, save


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    photos = album(folder / "photos")
    image = photo([0], 0)
    save(
        photos / "again.jpg",
        cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
        cv2.IMWRITE_JPEG_QUALITY,
        95,
    )
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        curated(photos, folder / "dataset")
    with Ledger.open(folder / "dataset", write=True) as ledger:
        target = ledger.read_rows(Pair)[0].target
        write_atomically(ledger.dataset / "lq" / "set" / f"{target}.png", b"frozen")
        frozen = Degradation("set", target, "gfpgan", 0, 512, "{}", sha256_bytes(b"frozen"))
        ledger.record("degrade", "set", {}, [frozen])
    return folder / "dataset"


@pytest.fixture
def dataset(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "dataset")


def tamper(dataset, *rows, **options):
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("tamper", "test", {}, rows, **options)


def table(dataset, kind):
    with Ledger.open(dataset) as ledger:
        return ledger.read_rows(kind)


def ok_face(dataset) -> Face:
    return next(face for face in table(dataset, Face) if face.status == "ok")


def test_nothing_is_wrong_with_a_fresh_dataset(clean):
    assert check_ledger(clean) == []
    assert any(face.duplicate_of for face in table(clean, Face))


def test_an_accepted_face_whose_photo_no_file_holds(dataset):
    face = ok_face(dataset)
    uris = [file.uri for file in table(dataset, File) if file.photo_id == face.photo_id]
    tamper(dataset, delete=[("files", "uri", uris)])
    assert check_ledger(dataset) == [f"the photo of this accepted face has no file: {face.face_id}"]


def test_a_missing_crop(dataset):
    face = ok_face(dataset)
    crop_path(dataset, face.face_id).unlink()
    assert check_ledger(dataset) == [f"this accepted face has no crop: {face.face_id}"]


def test_an_orphan_crop_and_other_files_without_a_row(dataset):
    write_atomically(crop_path(dataset, "e" * 32), b"")
    assert check_ledger(dataset) == [f"this crop belongs to no face: faces/ee/{'e' * 32}.png"]
    crop_path(dataset, "e" * 32).unlink()
    for name in ("faces/ab/.half.png.1.tmp", "embeddings/notes.txt", "lq/set/holiday.jpg"):
        write_atomically(dataset / name, b"")
    assert check_ledger(dataset) == [
        "the ledger has no row for this file: faces/ab/.half.png.1.tmp",
        "the ledger has no row for this file: embeddings/notes.txt",
        "the ledger has no row for this file: lq/set/holiday.jpg",
    ]


def test_a_crop_that_another_has_replaced(dataset):
    """Tests a crop that was replaced by another valid PNG. Only the recorded hash can show this change."""
    one, other = [face.face_id for face in table(dataset, Face) if face.status == "ok"][:2]
    shutil.copyfile(crop_path(dataset, other), crop_path(dataset, one))
    told = f"this crop has changed: faces/{one[:2]}/{one}.png (remove the crop, and curate again)"
    assert check_ledger(dataset) == [told]
    assert check_ledger(dataset, hashes=False) == []


def test_a_tampered_a_missing_and_an_orphan_low_quality_image(dataset):
    (frozen,) = (dataset / "lq" / "set").iterdir()
    frozen.write_bytes(b"thawed")
    assert check_ledger(dataset) == [f"this low-quality image has changed: set/{frozen.name}"]
    assert check_ledger(dataset, hashes=False) == []
    frozen.rename(frozen.with_name("other.png"))
    assert check_ledger(dataset) == [
        f"this low-quality image is missing: set/{frozen.name}",
        "the ledger has no row for this low-quality image: lq/set/other.png",
    ]


def test_a_person_in_two_splits(dataset):
    rows = table(dataset, Split)
    one = next(row for row in rows if row.split == "train")
    tamper(dataset, replace(one, split="test"))
    found = check_ledger(dataset)
    assert f"this person is in more than one split: {one.identity_id}" in found
    assert f"the tables `pairs` and `splits` name different splits for this target: {one.face_id}" in found


def test_a_near_duplicate_in_two_splits(dataset):
    copy = next(face for face in table(dataset, Face) if face.duplicate_of)
    kept = {row.face_id: row for row in table(dataset, Split)}[copy.duplicate_of]
    other = "val" if kept.split != "val" else "test"
    neighbour = next(face for face in table(dataset, Face) if face.photo_id != copy.photo_id and not face.duplicate_of)
    # The photo that contains `copy` gets a face of another person, and this face is in another split.
    tamper(
        dataset,
        replace(neighbour, photo_id=copy.photo_id),
        replace(kept, face_id=neighbour.face_id, identity_id="other", split=other),
    )
    assert (
        f"this photo is in more than one split, directly or through a near-duplicate: {copy.photo_id}"
        in check_ledger(dataset)
    )


def test_rows_that_point_nowhere(dataset):
    face = ok_face(dataset)
    shard = face.shard
    tamper(
        dataset,
        File("file:///gone", "0" * 64, 1, 1, "ok"),
        replace(face, photo_id="1" * 64, shard="lost"),
        Membership("2" * 32, "nobody", 1.0, 1.0),
        Pair(face.face_id, (face.face_id,), (1.0,), "nearest", "train"),
        Degradation("set", "3" * 32, "gfpgan", 0, 512, "{}", "0"),
    )
    found = check_ledger(dataset)
    for line in (
        "the ledger has no row for the photo of this file: file:///gone",
        f"the ledger has no row for the photo of this face: {face.face_id}",
        f"this face belongs to a person, but the status of the face is not ok: {'2' * 32}",
        f"the ledger has no row for the person of this face: {'2' * 32}",
        f"this target is among its own references: {face.face_id}",
        f"a reference of this target is from the photo of the target: {face.face_id}",
        f"the ledger has no row for the face of this low-quality image: {'3' * 32}",
        f"this low-quality image is missing: set/{'3' * 32}.png",
        "this embedding shard is missing or broken: lost",
    ):
        assert line in found
    assert shard != "lost"


def test_a_reference_of_another_split_or_one_that_was_set_aside(dataset):
    pair = table(dataset, Pair)[0]
    reference = next(row for row in table(dataset, Split) if row.face_id == pair.refs[0])
    tamper(dataset, replace(reference, status="dropped", reason="photo_spans_splits"))
    problem = f"this target has a reference from a split that the target must not use: {pair.target}"
    assert problem in check_ledger(dataset)


def test_a_reference_of_another_person(dataset):
    pair = table(dataset, Pair)[0]
    people = {row.face_id: row.identity_id for row in table(dataset, Membership)}
    stranger = next(face for face, person in people.items() if person != people[pair.target])
    tamper(dataset, replace(pair, refs=(stranger,), similarities=(0.1,)))
    assert f"a reference of this target shows another person, or was dropped: {pair.target}" in check_ledger(dataset)


def test_shards_that_are_short_missing_or_nobodys(dataset):
    shard = min((dataset / "embeddings").iterdir())
    last_row = len(np.load(shard)) - 1
    np.save(shard, np.load(shard)[:last_row])
    (last,) = [row for row in table(dataset, Face) if row.shard == shard.stem and row.shard_row == last_row]
    changed = f"this embedding shard has changed: embeddings/{shard.name}"
    assert check_ledger(dataset) == [changed, f"the embedding shard of this face has too few rows: {last.face_id}"]
    assert check_ledger(dataset, hashes=False) == [f"the embedding shard of this face has too few rows: {last.face_id}"]
    shard.rename(shard.with_name("other.npy"))
    assert check_ledger(dataset) == [
        f"this embedding shard is missing or broken: {shard.stem}",
        "no face uses this embedding shard: embeddings/other.npy",
    ]


def test_an_accepted_face_without_embedding(dataset):
    face = ok_face(dataset)
    tamper(dataset, replace(face, shard=None, shard_row=None))
    assert check_ledger(dataset) == [f"this accepted face has no embedding: {face.face_id}"]
