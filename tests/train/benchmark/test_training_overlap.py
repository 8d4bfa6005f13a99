"""Tests that people and pictures of a frozen set are found in the training of a run, and that strangers are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.people.leaks.dataset_faces import read_rules
from degrade.frozen.dataset_sets import make_set
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Membership, Split
from tests.doubles import curation as doubles
from tests.doubles.models.restorers import SIZE
from tests.doubles.training_snapshots import write_snapshot
from train.benchmark.freeze import freeze
from train.benchmark.set_faces import read_set_faces
from train.benchmark.training_overlap import NO_SNAPSHOT, TrainingOverlap, find_training_overlap


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Makes an album of twelve people, and its dataset with a frozen test set."""
    photos, dataset = doubles.curated_album(tmp_path_factory.mktemp("overlap"), people=12, each=4)
    make_set(dataset, "codeformer", "test", 0, SIZE, workers=1)
    return photos, dataset


def targets_of(dataset: Path) -> list[str]:
    with Ledger.open(dataset) as ledger:
        return list(ledger.query("SELECT face_id FROM degradations ORDER BY face_id")["face_id"])


def search(dataset: Path, run: Path, lq_set: str | None = None) -> TrainingOverlap:
    return find_training_overlap(read_set_faces(dataset, lq_set, targets_of(dataset)), run, targets_of(dataset), False)


def faces_of(dataset: Path, split: str) -> list[str]:
    return [row.face_id for row in doubles.rows(dataset, Split) if row.split == split]


def person_of(made: tuple[Path, Path]) -> str:
    """Returns the number of the one person in the test set, as a text."""
    named = {face: name for name, face in doubles.name_faces(made[1]).items()}
    return named[targets_of(made[1])[0]].split("/")[0]


def curate_copies(made: tuple[Path, Path], folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Makes a dataset of changed copies of the test person's photos, and of no other photos."""
    for path in sorted((made[0] / f"person{person_of(made)}").iterdir()):
        doubles.save(folder / "photos" / f"{path.stem}.jpg", change(cv2.imread(str(path))[:, :, ::-1]))
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.curated(folder / "photos", folder / "dataset")
    return folder / "dataset"


def test_only_faces_of_the_training_split_count(made: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = made[1]
    strangers = dict.fromkeys(faces_of(dataset, "train"), "train")
    write_snapshot(tmp_path, dataset, strangers | dict.fromkeys(faces_of(dataset, "test"), "test"), SIZE)
    found = search(dataset, tmp_path)
    assert found.checked and not found.seen and not found.seen_targets and not found.unchecked
    assert found.training_faces == len(strangers) and set(found.how) == {"file", "picture", "person"}
    write_snapshot(tmp_path, dataset, strangers | {faces_of(dataset, "test")[0]: "train"}, SIZE)
    found = search(dataset, tmp_path)
    (one,) = found.seen
    assert one.kind == "file" and one.face == one.training_face == faces_of(dataset, "test")[0]
    assert found.seen_targets == targets_of(dataset) and one.images == len(found.seen_targets)


def test_a_photo_that_was_saved_again_is_found_by_its_picture(made: tuple[Path, Path], tmp_path: Path) -> None:
    copies = curate_copies(made, tmp_path, lambda image: cv2.resize(image[:, ::-1], None, fx=0.9, fy=0.9))
    faces = dict.fromkeys(doubles.name_faces(copies).values(), "train")
    assert not faces.keys() & set(targets_of(made[1])), "the copies have face ids of their own"
    write_snapshot(tmp_path / "run", copies, faces, SIZE)
    (one,) = search(made[1], tmp_path / "run").seen
    assert one.kind == "picture" and one.training_face in faces and one.cosine is not None and one.cosine > 0.9


def test_another_photo_of_the_person_is_found_by_its_face(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Tests a training with other photos of the test person."""
    number = int(person_of(made))
    for seed in (20, 21):
        doubles.save(tmp_path / "photos" / f"{seed}.png", doubles.photo([number], seed))
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.curated(tmp_path / "photos", tmp_path / "dataset")
    faces = dict.fromkeys(doubles.name_faces(tmp_path / "dataset").values(), "train")
    write_snapshot(tmp_path / "run", tmp_path / "dataset", faces, SIZE)
    found = search(made[1], tmp_path / "run")
    assert [one.kind for one in found.seen] == ["person"] and found.seen_targets == targets_of(made[1])
    # Two benchmarks of the set give the same result: one has embeddings, the other uses those of the dataset.
    freeze(made[1], tmp_path / "full", references=2, with_pictures=True, with_embeddings=True)
    freeze(made[1], tmp_path / "bare", references=2)
    for dataset, lq_set in ((tmp_path / "full", None), (made[1], str(tmp_path / "bare"))):
        own = read_set_faces(dataset, lq_set, targets_of(made[1]))
        again = find_training_overlap(own, tmp_path / "run", targets_of(made[1]), False)
        assert [one.kind for one in again.seen] == ["person"] and again.seen_targets == found.seen_targets


def test_a_stranger_who_reaches_the_threshold_once_is_not_the_person(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Tests a stranger with two photos. One photo reaches the threshold with one face of the set."""
    dataset, run = made[1], tmp_path / "run"
    with Ledger.open(dataset) as ledger:
        own = ledger.read_embeddings(faces_of(dataset, "test"))[1].astype(np.float64)
        least = read_rules(ledger).same_person + 1e-4
    # `like` has the cosine `least` to the first face, and lower cosines to the other faces of the person
    away = own[0] - own.mean(0)
    away -= away @ own[0] * own[0]
    like = least * own[0] + (1 - least**2) ** 0.5 * away / np.linalg.norm(away)
    assert own.mean(0) @ like < least - 2e-4
    people = {row.face_id: row.identity_id for row in doubles.rows(dataset, Membership)}
    one = faces_of(dataset, "train")[0]
    other = next(face for face in faces_of(dataset, "train")[1:] if people[face] == people[one])
    write_snapshot(run, dataset, {one: "train", other: "train"}, SIZE, {one: like, other: -like})
    found = search(dataset, run)
    assert found.alike_pairs == 1 and not found.seen
    # if both photos of the stranger reach the threshold, they confirm each other
    write_snapshot(run, dataset, {one: "train", other: "train"}, SIZE, {one: like, other: like})
    assert [seen.kind for seen in search(dataset, run).seen] == ["person"]


def test_in_an_imported_set_the_photos_of_both_people_must_confirm_the_person(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    """Tests a stranger with two photos. One photo is similar to all faces of the person."""
    dataset, run = made[1], tmp_path / "run"
    own = read_set_faces(dataset, None, targets_of(dataset))
    imported = replace(own, is_imported=True)
    like = own.vectors.mean(0) / np.linalg.norm(own.vectors.mean(0))
    people = {row.face_id: row.identity_id for row in doubles.rows(dataset, Membership)}
    one = faces_of(dataset, "train")[0]
    other = next(face for face in faces_of(dataset, "train")[1:] if people[face] == people[one])
    write_snapshot(run, dataset, {one: "train", other: "train"}, SIZE, {one: like, other: -like})
    kinds = [
        [one.kind for one in find_training_overlap(faces, run, targets_of(dataset), False).seen]
        for faces in (own, imported)
    ]
    assert kinds == [["person"], []]
    # if both photos are similar to the person's faces, the stranger counts as the person
    write_snapshot(run, dataset, {one: "train", other: "train"}, SIZE, {one: like, other: like})
    assert [one.kind for one in find_training_overlap(imported, run, targets_of(dataset), False).seen] == ["person"]
    # a degraded face is compared only as a picture, and cannot show who the person is
    degraded = replace(imported, degraded=frozenset(line.face for line in own.faces))
    found = find_training_overlap(degraded, run, targets_of(dataset), False)
    assert not found.seen and "Compared only as pictures, because there is no target" in found.unchecked[0]


def test_a_set_that_was_split_by_photos_shares_people_but_no_pictures(made: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(made[1], tmp_path / "photos"))
    with Ledger.open(dataset, write=True) as ledger:
        rows = ledger.read_rows(Split)
        ledger.record("double", "photos", {}, [Split(**{**vars(row), "policy": "photos"}) for row in rows])
    targets, test = targets_of(dataset), faces_of(dataset, "test")
    write_snapshot(tmp_path, dataset, {test[0]: "train"}, SIZE)
    found = find_training_overlap(read_set_faces(dataset, None, targets), tmp_path, targets, False)
    assert found.compared == "photos" and "person" not in found.how
    assert found.seen_targets == [test[0]] and found.seen[0].kind == "file" and len(targets) > 1


def test_what_cannot_be_compared_is_said(made: tuple[Path, Path], tmp_path: Path) -> None:
    assert search(made[1], tmp_path).unchecked == [NO_SNAPSHOT] and not search(made[1], tmp_path).checked
    write_snapshot(tmp_path, made[1], {targets_of(made[1])[0]: "train"}, SIZE)
    facts = tmp_path / "snapshot" / "snapshot.json"
    facts.write_text(facts.read_text().replace('"sha256": "', '"sha256": "0'))
    found = search(made[1], tmp_path)
    assert "recognizers of the set and of the training differ" in found.unchecked[0]
    assert list(found.how) == ["file"] and found.seen[0].kind == "file"
