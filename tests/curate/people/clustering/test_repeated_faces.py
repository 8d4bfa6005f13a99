"""Tests which faces of one photo become one person."""

import numpy as np
import pytest

from curate.people.clustering.repeated_faces import join_repeated_faces

# with this threshold, two faces of one photo need a cosine of .685 to each other, and of .475 to the person's other
# photos
THRESHOLD = 0.3


def at(cosine: float, person: int, aside: int) -> np.ndarray:
    """Returns a unit vector, float32 (16,), in the plane of the axes `person` and `aside`. `cosine` is its cosine to
    `person`."""
    vector = np.zeros(16, np.float32)
    vector[person], vector[aside] = cosine, np.sqrt(1 - cosine**2)
    return vector


def join(rows, linked=(), threshold=THRESHOLD):
    """Joins repeated faces. `rows` are (vector, photo, label). Returns the labels, and which rows joined a person."""
    vectors = np.stack([row[0] for row in rows])
    photos, labels = (np.array([row[k] for row in rows]) for k in (1, 2))
    order = np.random.default_rng(0).permutation(len(rows))  # row i that the function gets is face order[i]
    marked = np.isin(np.arange(len(rows)), list(linked))
    found, joined = join_repeated_faces(vectors, order, photos[order], labels[order], marked[order], threshold)
    back = np.argsort(order)
    return found[back].tolist(), sorted(order[joined].tolist())


KNOWN = [(at(0.9, 0, 2), 0, 0), (at(0.9, 0, 3), 1, 0), (at(0.9, 0, 4), 2, 0)]  # one person in three photos


def test_a_single_face_joins_the_person_whom_its_photo_shows_already():
    labels, joined = join([*KNOWN, (at(0.85, 0, 4), 2, 1)])
    assert labels == [0, 0, 0, 0] and joined == [3]


@pytest.mark.parametrize(
    ("rows", "linked"),
    [
        # The person has only one other photo, so the two faces of photo 2 may be twins.
        ([*KNOWN[1:], (at(0.85, 0, 4), 2, 1)], ()),
        # The two faces of photo 2 are not similar enough, so they may be sisters.
        ([*KNOWN, (at(0.6, 0, 5), 2, 1)], ()),
        # The new face is like the other face of its photo, but not like the person's other photos.
        ([*KNOWN[:2], (at(0.5, 0, 4), 2, 0), (at(0.3, 0, 4), 2, 1)], ()),
        # The person of the new face is also in photo 3, so the two faces of photo 2 may be twins.
        ([*KNOWN, (at(0.85, 0, 4), 2, 1), (at(0.85, 0, 4), 3, 1)], ()),
        # A decision names one of the two faces of photo 2.
        ([*KNOWN, (at(0.85, 0, 4), 2, 1)], (3,)),
        ([*KNOWN, (at(0.85, 0, 4), 2, 1)], (2,)),
    ],
)
def test_all_other_faces_of_one_photo_stay_two_people(rows, linked):
    labels, joined = join(rows, linked)
    assert labels == [row[2] for row in rows] and joined == []


def test_the_face_that_looks_more_like_the_person_takes_the_place_of_the_other():
    rows = [*KNOWN[:2], (at(0.45, 0, 5), 2, 0), (at(0.8, 0, 6), 2, 1)]
    assert join(rows) == ([0, 0, 1, 0], [])
    assert join(rows, linked=(2,)) == ([0, 0, 0, 1], [])  # A decision keeps the less similar face with the person.
    # With this threshold, no face is similar enough to change its person.
    assert join(rows, threshold=0.8) == ([0, 0, 0, 1], [])


def test_three_faces_of_one_photo_can_be_one_person():
    labels, joined = join([*KNOWN, (at(0.85, 0, 4), 2, 1), (at(0.8, 0, 4), 2, 2), (at(0.9, 7, 4), 2, 3)])
    assert labels == [0, 0, 0, 0, 0, 3] and joined == [3, 4]
