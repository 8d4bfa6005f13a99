"""Tests which people the references show, and which references each face of a photo gets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.restore.references.choose_references import FaceInPhoto, choose_references
from train.restore.references.confirm_references import (
    DEGRADED_SHARPNESS,
    ILLEGIBLE_SHARPNESS,
    RESTORED_SHARE,
    confirm_references,
)
from train.restore.references.reference_people import describe_people, find_people
from train.restore.references.reference_photos import ReferenceFace, ReferencePhoto, join_references

SAME = 0.5
CROP = np.zeros((8, 8, 3), np.uint8)


def embed(person: int, turn: float = 0.1, seed: int = 0) -> np.ndarray:
    """Returns a unit vector near axis number `person`. Two vectors of one person have a cosine near 1."""
    vector = turn * np.random.default_rng([person, seed]).normal(size=8) / np.sqrt(8)
    vector[person] += 1
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def photo(name: str, *people: int, seed: int = 0) -> ReferencePhoto:
    """Returns a reference photo with the faces of `people`. The faces get smaller from left to right."""
    faces = [
        ReferenceFace(
            (100.0 * i, 0.0, 100.0 * i + 90 - i, 90.0),
            CROP,
            embed(person, seed=seed + 10 * i + len(name) + ord(name[0])),
            None,
            hashlib.sha256(f"{name} {i}".encode()).hexdigest(),
        )
        for i, person in enumerate(people)
    ]
    return ReferencePhoto(Path(name), name, tuple(faces))


def face(person: int, sharpness: float = 0.9, restored: int = 7) -> FaceInPhoto:
    """Returns a face with the embedding of `person`.

    The face restored without references has the embedding of the person `restored`.
    """
    return FaceInPhoto(embed(person, seed=99), "f" * 64, sharpness, lambda: embed(restored, seed=98))


def names(choice: object) -> list[str]:
    return [use.file for use in choice.uses]  # type: ignore[attr-defined]


def choose(faces: Sequence[FaceInPhoto], photos: Sequence[ReferencePhoto], **options: bool) -> list[list[str]]:
    return [names(one) for one in choose_references(faces, "photo", find_people(photos, SAME), SAME, **options).faces]


def test_the_majority_is_the_person_and_the_odd_one_is_left_out_and_said() -> None:
    photos = [photo("a", 1), photo("odd", 2), photo("b", 1), photo("c", 1)]
    people = find_people(photos, SAME)
    assert [[str(one.path) for one in person.photos] for person in people] == [["a", "b", "c"], ["odd"]]
    (sentence,) = describe_people(people, SAME, trust=False)
    for words in ("odd does not show the main person", "--trust-references", "at least 0.50 needed"):
        assert words in sentence
    assert choose([face(1)], photos) == [["a", "b", "c"]]
    # A degraded face that is similar to nobody gets the references of the person with the most reference photos.
    (choice,) = choose_references([face(5, sharpness=0.1)], "photo", people, SAME).faces
    assert names(choice) == ["a", "b", "c"] and "too degraded to confirm" in choice.describe()


def test_trusted_references_are_all_used_for_the_face_that_is_most_like_them() -> None:
    photos = [photo("a", 1), photo("odd", 2), photo("b", 3, 1)]
    assert choose([face(1)], photos, trust=True) == [["a", "b", "odd"]]
    assert choose([face(6), face(1)], photos, trust=True) == [[], ["a", "b", "odd"]]
    assert describe_people(find_people(photos, SAME), SAME, trust=True) == []


def test_the_matching_face_of_a_reference_is_taken_and_named() -> None:
    photos = [photo("a", 1), photo("group", 2, 3, 1), photo("b", 1)]
    people = find_people(photos, SAME)
    (choice,) = choose_references([face(1)], "photo", people, SAME).faces
    assert names(choice) == ["a", "group", "b"]
    assert [use.box for use in choice.uses] == [None, photos[1].faces[2].box, None]
    (sentence,) = describe_people(people, SAME, trust=False)
    assert "group shows 3 faces. The face at 200,0,288,90 is used" in sentence
    # If the only reference photo shows several faces, the one that is most like the face in the photo is used.
    assert choose([face(1)], [photos[1]]) == [["group"]]
    (choice,) = choose_references([face(1)], "photo", find_people([photos[1]], SAME), SAME).faces
    assert choice.uses[0].box == photos[1].faces[2].box and choice.uses[0].cosine_to_others is None


def test_each_face_gets_its_own_references_and_a_stranger_none() -> None:
    photos = [photo("her", 1), photo("him", 2), photo("her too", 1), photo("him too", 2)]
    assert choose([face(2), face(4), face(1)], photos) == [["him", "him too"], [], ["her", "her too"]]
    (sentence,) = describe_people(find_people(photos, SAME), SAME, trust=False)
    assert "show 2 people, each in 2 photos" in sentence


def test_a_sharp_face_that_does_not_match_gets_none_unless_the_user_points_at_it() -> None:
    photos = [photo("a", 1)]
    (choice,) = choose_references([face(4)], "photo", find_people(photos, SAME), SAME).faces
    assert not choice.uses and "give --trust-references" in choice.describe()
    assert choose([face(4)], photos, pointed=True) == [["a"]]
    assert choose([face(4, ILLEGIBLE_SHARPNESS - 0.01)], photos) == [["a"]]
    # A degraded face is first restored without references. It gets the references if this result is similar to them.
    degraded = [face(4, DEGRADED_SHARPNESS - 0.01, restored) for restored in (1, 7)]
    hinted, contradicted = (
        choose_references([one], "photo", find_people(photos, SAME), SAME).faces[0] for one in degraded
    )
    assert names(hinted) == ["a"] and "only a little like the references" in hinted.describe()
    assert not contradicted.uses and "restored without references" in contradicted.describe()


def test_a_face_is_restored_without_references_only_if_it_decides_nothing_itself() -> None:
    axes, calls = np.eye(3, dtype=np.float32), list[int]()

    def embed_restored() -> np.ndarray:
        calls.append(1)
        return np.array([RESTORED_SHARE * SAME + 1e-3, 0, 0], np.float32)

    def confirm(embedding: np.ndarray, sharpness: float) -> bool:
        return confirm_references(embedding, sharpness, axes[:1], SAME, embed_restored).confirmed

    assert [confirm(axes[0], 0.9), confirm(axes[1], DEGRADED_SHARPNESS)] == [True, False]
    assert confirm(axes[1], ILLEGIBLE_SHARPNESS - 1e-3) and not calls
    assert confirm(axes[1], ILLEGIBLE_SHARPNESS) and len(calls) == 1
    # The mean cosine decides. A reference of another person lowers it.
    assert not confirm_references(axes[1], 0.2, axes[[0, 2]], SAME, embed_restored).confirmed


def test_the_photo_itself_and_its_near_duplicate_are_left_out() -> None:
    near = ReferencePhoto(
        Path("near"), "near", (ReferenceFace((0, 0, 9, 9), CROP, embed(1), None, "f" * 60 + "0" * 4),)
    )
    photos = [photo("photo", 1), near, photo("a", 1)]
    people = find_people(photos, SAME)
    choice = choose_references([face(1)], "photo", people, SAME, trust=True)
    assert names(choice.faces[0]) == ["a"]
    assert len(choice.notices) == 2
    assert "photo was left out, because it is the same file" in choice.notices[0]
    assert "near was left out, because it is a near-duplicate" in choice.notices[1]
    # A reference of another person is never a near-duplicate, even if the hashes are equal.
    assert names(choose_references([face(3)], "other", people, SAME, pointed=True).faces[0])[1:] == ["near", "a"]
    (choice_without,) = choose_references([face(1)], "photo", find_people(photos[:2], SAME), SAME).faces
    assert choice_without.describe() == "without references, because every reference is a copy of the photo"


def test_a_sentence_names_four_references_at_most_with_their_cosines() -> None:
    photos = [photo(f"folder/{i}.jpg", 1, seed=i) for i in range(6)]
    (choice,) = choose_references([face(1)], "photo", find_people(photos, SAME), SAME).faces
    text = choice.describe()
    assert text.startswith("with 6 references (0.jpg 0.9") and text.endswith("and 2 others)") and "folder" not in text
    assert all(use.cosine_to_others is not None and use.cosine_to_others > 0.9 for use in choice.uses)
    assert choose([face(1)], []) == [[]]


@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3), min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_references_does_not_change_the_groups(shown: list[list[int]], random: object) -> None:
    photos = [photo(f"{i}", *people) for i, people in enumerate(shown)]
    shuffled = list(photos)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    groups = [
        {(frozenset(str(one.path) for one in person.photos), len(person.faces)) for person in find_people(some, SAME)}
        for some in (photos, shuffled)
    ]
    assert groups[0] == groups[1]
    for person in find_people(photos, SAME):
        assert len(set(map(id, person.photos))) == len(person.photos) == len(person.faces)


@pytest.mark.parametrize("count", [0, 3])
def test_references_are_joined_for_a_restorer(count: int) -> None:
    joined = join_references(photo("a", *range(count)).faces, 8, 8)
    assert joined.crops.shape == (count, 8, 8, 3) and joined.embeddings.shape == (count, 8)
    assert len(joined.landmarks) == count
