"""Tests that a search for near-duplicates among new faces gives the same sets as a search among all faces."""

from dataclasses import replace

import numpy as np
import pytest

from curate.config import DedupeRules
from curate.decisions.decide import decide
from curate.people.copies import earlier_sets, near_duplicates, same_picture
from curate.people.copies.near_duplicates import find_near_duplicates
from manifests.ledger.records import Face, Photo
from tests.doubles.curation import curated, curated_album, install, name_faces, photo, save
from tests.doubles.faces.face_rows import face

RULES = DedupeRules()


def make_collection(seed: int) -> tuple[list[Face], list[Photo], np.ndarray]:
    """Returns 90 faces of six people. Each photo shows up to three faces, and most photos have copies.

    The hashes of the copies and their cosines are near the limits of the rules.
    """
    rng = np.random.default_rng(seed)
    people, points = rng.normal(size=(6, 8)), np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]])
    faces, photos, vectors = list[Face](), list[Photo](), []

    def flip(hash_: str, bits: int) -> str:
        mask = sum(1 << int(bit) for bit in rng.choice(len(hash_) * 4, bits, replace=False))
        return f"{int(hash_, 16) ^ mask:0{len(hash_)}x}"

    while len(faces) < 90:
        shown = [(rng.integers(6), rng.bytes(32).hex(), rng.normal(size=8)) for _ in range(rng.integers(1, 3))]
        if rng.random() < 0.2:
            shown.append(shown[0])  # the photo shows one picture of a person twice
        boxes = [(x * 130.0, 50.0, x * 130.0 + 100, 150.0) for x in range(4)]
        own = rng.bytes(8).hex()
        for _ in range(1 if rng.random() < 0.3 else rng.integers(2, 10)):
            name = f"{rng.integers(2**40):x}"
            row_of_photo = Photo(name, 600, 300, flip(own, rng.integers(0, 9)))
            moved = rng.integers(0, 60)
            for (person, hash_, noise), (x0, y0, x1, y1) in zip(shown, boxes, strict=False):
                if rng.random() < 0.8:
                    box = (x0 + moved, y0, x1 + moved, y1)
                    row = face(f"{name}{x0}", name, 40, box, phash=flip(hash_, rng.integers(20, 32)))
                    faces.append(replace(row, landmarks5=tuple((points + np.array(box[:2])).ravel().tolist())))
                    photos.append(row_of_photo)
                    vectors.append(people[person] + 0.5 * noise + rng.uniform(0, 0.7) * rng.normal(size=8))
    rows = np.array(vectors, np.float32)
    return faces, photos, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def list_sets(faces: list[Face], photos: list[Photo], vectors: np.ndarray, sets: np.ndarray | None) -> np.ndarray:
    rows = find_near_duplicates(faces, photos, vectors, RULES, sets=sets)
    return np.unique([row.representative for row in rows], return_inverse=True)[1]


@pytest.mark.parametrize("seed", range(8))
def test_faces_that_arrive_in_any_order_form_the_sets_of_a_full_search(seed, monkeypatch):
    # With 3 instead of 32 neighbours, a new face often pushes a copy out of a list of neighbours.
    monkeypatch.setattr(same_picture, "_NEIGHBOURS", 3)
    faces, photos, vectors = make_collection(seed)
    rng = np.random.default_rng(seed)
    # In half of the runs, all faces of a photo arrive together. In the other half, a new face can be in an earlier
    # photo.
    names = [row.photo_id if seed % 2 else row.face_id for row in faces]
    when = dict(zip(sorted(set(names)), rng.integers(0, 6, len(set(names))), strict=True))
    arrival = np.array([when[name] for name in names])
    known = np.full(len(faces), -1)
    for batch in range(6):
        rows = np.flatnonzero(arrival <= batch)
        present = [faces[row] for row in rows], [photos[row] for row in rows], vectors[rows]
        full = list_sets(*present, None)
        extended = list_sets(*present, known[rows])
        assert np.array_equal(full, extended)
        known[rows] = full
    assert 10 < len(set(known.tolist())) < len(faces) - 10


@pytest.fixture
def searches(monkeypatch) -> list[int | None]:
    """Returns a list. Each search appends the number of faces that it compares, or None if it compares all faces.

    Each search is repeated as a search of all faces, and must have the same result.
    """
    numbers = list[int | None]()

    def find(faces, photos, vectors, rules, preferred=(), sets=None) -> list[Face]:
        numbers.append(None if sets is None else len(earlier_sets.select_rows_to_search(faces, vectors, sets)))
        rows = find_near_duplicates(faces, photos, vectors, rules, preferred, sets)
        assert rows == find_near_duplicates(faces, photos, vectors, rules, preferred)
        return rows

    install(monkeypatch)
    monkeypatch.setattr(near_duplicates, "find_near_duplicates", find)
    monkeypatch.setattr(earlier_sets, "MOST_NEW", 0.5)
    return numbers


def test_commands_compare_only_new_faces_and_compare_all_faces_after_other_changes(tmp_path, searches, monkeypatch):
    photos, dataset = curated_album(tmp_path, people=3, each=3)
    original = name_faces(dataset)["0/0"]
    searches.clear()
    save(photos / "copy.jpg", photo([0], 0))  # a copy of photo 0 of person 0
    save(photos / "new.png", photo([1], 7))
    curated(photos, dataset)
    decide(dataset, [{"kind": "drop", "faces": [original]}])
    assert searches == [2, 0]
    decide(dataset, [{"kind": "undo", "undoes": 1}])
    assert searches == [2, 0, 2]  # the ledger does not say to which set the two dropped faces belonged
    searches.clear()
    save(photos / "new.png", photo([2], 7))  # another picture under the name of an earlier photo
    curated(photos, dataset)
    assert searches == [None, 1]  # the overwritten photo is compared with the photos in use
    searches.clear()
    curated(photos, dataset, dedupe=DedupeRules(max_photo_bits=5))
    monkeypatch.setattr(earlier_sets, "code_version", lambda: "another version")
    curated(photos, dataset, dedupe=DedupeRules(max_photo_bits=5))
    assert searches == [None, 1, None, 1]
