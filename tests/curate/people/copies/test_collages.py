"""Tests that a person who is twice in one picture is found, and that two people in one picture stay two people."""

import numpy as np
import pytest

from curate.people.copies.collages import (
    describe_collages,
    describe_repeated_faces,
    find_collages,
    find_repeating_photos,
)
from tests.doubles.faces.face_rows import face


def looks(person: int, count: int, seed: int, spread: float = 0.5) -> np.ndarray:
    """Returns unit embeddings of one person, float32 (count, 16)."""
    centre = np.eye(16)[person]
    rows = centre + spread * np.random.default_rng([person, seed]).standard_normal((count, 16)) / 4
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_picture_is_a_collage_if_it_shows_a_known_person_twice():
    vectors = np.concatenate([looks(0, 9, 0), looks(1, 4, 0)])
    # Face 8 is a second face of person 0 in the picture `strip`, but has another label.
    vectors[8] = vectors[:7].sum(0) / np.linalg.norm(vectors[:7].sum(0))
    labels = np.array([0] * 8 + [2] + [1] * 4)
    pictures = [*"abcdefg", "strip", "strip", "strip", *"hij"]
    assert find_collages(vectors, labels, pictures, 0.3) == {"strip": 1}
    order = np.random.default_rng(0).permutation(13)
    assert find_collages(vectors[order], labels[order], [pictures[i] for i in order], 0.3) == {"strip": 1}
    assert find_collages(vectors, labels, pictures, 1.01) == {}  # No face reaches this threshold.
    # The person has only two faces in other pictures. This is too few to know the person, so the picture is no collage.
    known = [*"ab", *["strip"] * 8, *"hij"]
    assert find_collages(vectors, np.array([0] * 9 + [1] * 4), known, 0.3) == {}


def test_two_very_similar_faces_of_one_picture_make_a_collage():
    vectors = np.concatenate([looks(0, 2, 0, 0.1), looks(1, 4, 0)])
    labels, pictures = np.array([0, 1, 2, 2, 2, 2]), ["pair", "pair", *"abcd"]
    assert find_collages(vectors, labels, pictures, 0.3) == {"pair": 1}
    # the two faces already belong to one person
    assert find_collages(vectors, np.array([0, 0, 2, 2, 2, 2]), pictures, 0.3) == {}


def test_two_people_who_are_often_together_are_no_collage():
    vectors = np.concatenate([looks(0, 6, 1), looks(1, 6, 1)])
    assert find_collages(vectors, np.repeat([0, 1], 6), [*"abcdef"] * 2, 0.3) == {}


def test_a_photo_repeats_a_person_if_two_of_its_faces_are_alike():
    faces = [face(name, photo) for name, photo in zip("abcdef", "ppqqrs", strict=True)]
    vectors = np.concatenate([looks(0, 2, 0, 0.1), looks(1, 1, 0), looks(2, 1, 0), looks(0, 2, 2, 0.1)])
    assert find_repeating_photos(faces, vectors, 0.5) == {"p"}
    assert find_repeating_photos([], np.zeros((0, 16), np.float32), 0.5) == set()


@pytest.mark.parametrize(("allowed", "said"), [(False, "3 faces could join"), (True, "can be one person")])
def test_the_notice_names_pictures_and_the_option(allowed, said):
    (notice,) = describe_collages(["d.jpg", "a.jpg", "c.jpg", "b.jpg"], 3, allowed)
    assert notice.startswith("4 pictures look like collages: a.jpg, b.jpg, c.jpg and 1 more.") and said in notice
    assert "--collages" in notice and describe_collages([], 0, allowed) == []


def test_the_notice_about_repeated_people_names_the_pictures_and_the_decision():
    (notice,) = describe_repeated_faces(["b.jpg", "a.jpg"])
    assert (
        notice.startswith("2 pictures seem to show one person twice: a.jpg, b.jpg.")
        and "decide DATASET split" in notice
    )
    assert describe_repeated_faces(["a.jpg"])[0].startswith("1 picture seems") and describe_repeated_faces([]) == []
