"""Tests that people of frozen sets stay in their split, and that a face keeps its decisions when its file changes."""

import dataclasses
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from curate.decisions.decide import decide
from degrade.frozen.dataset_sets import make_set
from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Identity, Membership, Split
from tests.doubles.curation import curated, curated_album, find_dataset_leaks, install, photo, rows, save
from tests.doubles.pictures.metadata import encode_again, rate


@pytest.fixture(autouse=True)
def face_models(monkeypatch):
    install(monkeypatch)


def splits_of_folders(dataset: Path) -> dict[str, set[str]]:
    """Returns a dict that maps each folder of photos to the splits of the folder's faces that are in use."""
    split = {row.face_id: row.split for row in rows(dataset, Split) if row.status == "ok"}
    folder = {row.photo_id: row.uri.split("/")[-2] for row in rows(dataset, File)}
    found: dict[str, set[str]] = {}
    for face in rows(dataset, Face):
        if face.face_id in split:
            found.setdefault(folder[face.photo_id], set()).add(split[face.face_id])
    return found


def test_frozen_people_stay_in_test_and_a_planted_picture_of_theirs_is_found(tmp_path):
    photos, dataset = curated_album(tmp_path, people=6)
    make_set(dataset, "codeformer", "test", 0, 64, workers=1)
    before = splits_of_folders(dataset)
    (frozen,) = [name for name, splits in before.items() if splits == {"test"}]
    person = int(frozen[-1])
    old = (photos / frozen / "0.png").read_bytes()
    for number in range(3):  # the files of the frozen set are replaced by other photos of the person
        save(photos / frozen / f"{number}.png", photo([person], 50 + number))
    summary = curated(photos, dataset)
    assert splits_of_folders(dataset) == before and summary.photos["file_replaced"] == 3
    assert find_dataset_leaks(dataset).total == 0 and check_ledger(dataset) == []
    save(photos / "new" / "late.png", photo([person], 70))
    curated(photos, dataset)
    assert splits_of_folders(dataset) == {**before, "new": {"test"}}

    # A copy of a picture of the frozen set is put into train. The check finds the copy, although no face of the frozen
    # set is in use.
    (tmp_path / "old.png").write_bytes(old)
    copy = Image.open(tmp_path / "old.png")
    copy.crop((14, 14, copy.width, copy.height)).save(photos / "new" / "planted.png")
    curated(photos, dataset)
    (planted,) = [row.photo_id for row in rows(dataset, File) if row.uri.endswith("planted.png")]
    (face,) = [row.face_id for row in rows(dataset, Face) if row.photo_id == planted]
    with Ledger.open(dataset, write=True) as ledger:
        row = next(row for row in ledger.read_rows(Split) if row.face_id == face)
        ledger.record("double", "plant", {}, [dataclasses.replace(row, split="train")])
    found = find_dataset_leaks(dataset)
    assert any(
        leak.kind == "near_duplicate"
        and face in (leak.one, leak.other)
        and {leak.one_split, leak.other_split} == {"train", "test"}
        for leak in found.examples
    )


@pytest.mark.parametrize("change", [rate, encode_again])
def test_files_that_are_written_again_change_no_frozen_person(tmp_path, change):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for person, (number, kind) in itertools.product(range(4), enumerate(("jpg", "png", "webp"))):
        save(photos / f"person{person}" / f"{number}.{kind}", photo([person], number))
    curated(photos, dataset)
    make_set(dataset, "codeformer", "test", 0, 64, workers=1)
    splits, people = rows(dataset, Split), rows(dataset, Identity)
    assert {row.split for row in splits if row.locked} == {"test"}
    for path in photos.rglob("*.*"):
        change(path)
    curated(photos, dataset)
    assert rows(dataset, Split) == splits and rows(dataset, Identity) == people
    assert find_dataset_leaks(dataset).total == 0 and check_ledger(dataset) == []


@pytest.mark.parametrize("freeze", [False, True])
def test_the_same_face_in_an_edited_file_keeps_names_drops_splits_and_ids(tmp_path, freeze):
    photos, dataset = curated_album(tmp_path, people=4)
    people = sorted(row.identity_id for row in rows(dataset, Identity))
    dropped = min(row.face_id for row in rows(dataset, Membership) if row.identity_id == people[1])
    decide(dataset, [{"kind": "rename", "faces": [people[0]], "name": "Ann"}, {"kind": "drop", "faces": [dropped]}])
    if freeze:
        make_set(dataset, "codeformer", "test", 0, 64, workers=1)
    names = {row.identity_id: row.name for row in rows(dataset, Identity)}
    splits = splits_of_folders(dataset)
    # each photo is cropped, so it counts as another photo, but it shows the same face
    for path in photos.rglob("*.png"):
        save(path, np.ascontiguousarray(cv2.imread(str(path))[24:154, 36:164, ::-1]))
    for _ in range(2):
        summary = curated(photos, dataset)
        assert summary.photos == {"ok": 12, "file_replaced": 12} and summary.faces["decided"] == 1
        assert {row.identity_id: row.name for row in rows(dataset, Identity)} == names
        assert splits_of_folders(dataset) == splits and check_ledger(dataset) == []
