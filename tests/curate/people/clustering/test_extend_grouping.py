"""Tests that new faces join the groups of the last grouping, and that a group changes only because of a new face."""

from dataclasses import replace

import numpy as np
import pytest

from curate.people.clustering.extend_grouping import EarlierGrouping, extend_grouping
from curate.people.clustering.group_embeddings import Grouping, group_embeddings


def make_faces(people: int = 40, each: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(people), each)
    rows = rng.normal(size=(people, 128))[person] + 0.9 * rng.normal(size=(len(person), 128))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), person


def group_old_faces(vectors: np.ndarray, photos: np.ndarray, new: np.ndarray, **arguments) -> EarlierGrouping:
    """Returns the grouping of all faces that are not `new`, bool (n,)."""
    old = group_embeddings(vectors[~new], photos[~new], **arguments)
    groups, confidence = np.full(len(new), -1), np.ones(len(new), np.float32)
    groups[~new], confidence[~new] = old.labels, old.confidence
    assert old.evidence is not None and old.alpha is not None
    margin = confidence.copy()
    return EarlierGrouping(groups, confidence, margin, old.evidence, old.alpha, old.threshold, 0.001, 1.0, 0)


def list_groups(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.fixture
def crowd() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vectors, person = make_faces()
    return vectors, np.arange(len(person)).astype(str), person


def test_new_faces_and_new_people_are_grouped_as_in_a_full_grouping(crowd):
    vectors, photos, person = crowd
    new = np.zeros(len(person), bool)
    new[::29] = True
    new[person == 7] = True  # all faces of this person are new
    full: Grouping = group_embeddings(vectors, photos)
    earlier = group_old_faces(vectors, photos, new)
    extended = extend_grouping(vectors, earlier, photos)
    assert list_groups(extended.labels) == list_groups(full.labels) == list_groups(person)
    assert np.abs(extended.confidence - full.confidence).max() < 1e-5
    assert (extended.margin[new] > 0.2).all() and not extended.doubtful.any()
    assert extended.threshold == earlier.threshold and extended.alpha == earlier.alpha


def test_a_group_without_a_new_face_stays_even_if_a_full_grouping_would_change_it(crowd):
    vectors, photos, person = crowd
    new = np.zeros(len(person), bool)
    new[0] = True
    earlier = group_old_faces(vectors, photos, new)
    wrong = earlier.groups.copy()
    wrong[person == 5] = wrong[np.flatnonzero(person == 6)[0]]  # two people as one
    extended = extend_grouping(vectors, replace(earlier, groups=np.unique(wrong, return_inverse=True)[1] - 1), photos)
    assert frozenset(np.flatnonzero((person == 5) | (person == 6)).tolist()) in list_groups(extended.labels)
    untouched = person > 0
    assert np.array_equal(extended.confidence[untouched], earlier.confidence[untouched])
    assert np.array_equal(extended.margin[untouched], earlier.margin[untouched])


def test_links_and_photos_hold_for_new_faces(crowd):
    vectors, photos, person = crowd
    new = np.zeros(len(person), bool)
    new[[0, 6, 12]] = True
    earlier = group_old_faces(vectors, photos, new)
    photos = photos.copy()
    photos[12] = photos[13]  # a second face of one photo
    extended = extend_grouping(vectors, earlier, photos, must_link=[(6, 20)], cannot_link=[(0, 1)])
    labels = extended.labels
    assert labels[6] == labels[20] and labels[0] != labels[1]
    assert (labels[12] != labels[13]) or 12 in extended.repeated


def test_weak_new_faces_join_a_person_and_do_not_join_two_people(crowd):
    vectors, photos, person = crowd
    new = np.zeros(len(person), bool)
    new[[0, 6]] = True
    vectors = vectors.copy()
    vectors[6] = vectors[person == 1].sum(0) + vectors[person == 2].sum(0)  # a weak face between two people
    vectors[6] /= np.linalg.norm(vectors[6])
    worth = np.where(new, 0.3, 1.0)
    extended = extend_grouping(vectors, group_old_faces(vectors, photos, new), photos, worth=worth)
    assert extended.labels[0] == extended.labels[1]
    assert len(set(extended.labels[np.isin(person, [1, 2]) & ~new].tolist())) == 2


def test_without_new_faces_nothing_changes(crowd):
    vectors, photos, person = crowd
    earlier = group_old_faces(vectors, photos, np.zeros(len(person), bool))
    extended = extend_grouping(vectors, earlier, photos)
    assert list_groups(extended.labels) == list_groups(earlier.groups)
    assert np.array_equal(extended.margin, earlier.margin)
