"""Tests that the approximate search finds most neighbours, and that its result depends only on the embeddings."""

import faiss
import numpy as np
import pytest

from curate.people.clustering.approximate_search import _make_rotation
from curate.people.clustering.group_embeddings import group_embeddings
from curate.people.clustering.neighbours import find_neighbours, measure_recall


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """Returns 2,000 faces of 400 people, float32 (2000, 64)."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(400, 64)), 5, axis=0)
    rows = (centres + 0.5 * rng.normal(size=centres.shape)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def threads():
    before = faiss.omp_get_max_threads()
    yield faiss.omp_set_num_threads
    faiss.omp_set_num_threads(before)


def test_the_approximate_search_finds_most_true_neighbours_with_their_exact_cosines(faces):
    order = np.random.default_rng(1).permutation(len(faces))
    near = find_neighbours(faces, order, 10, 0.5, exact=1000)
    true = find_neighbours(faces, order, 10, 0.5)
    above = true.cosines >= 0.5
    hits = (true.rows[:, :, None] == near.rows[:, None, :]).any(axis=2)
    assert hits[above].mean() > 0.95 and near.recall > 0.95
    row, column = np.nonzero(near.rows >= 0)
    cosines = np.einsum("pd,pd->p", faces[order[row]], faces[order[near.rows[row, column]]])
    assert np.abs(near.cosines[row, column] - cosines).max() < 2e-6
    assert (near.rows != np.arange(len(faces))[:, None]).all()
    assert all(len(set(row)) == 10 for row in near.rows.tolist())


def test_the_recall_counts_a_pair_that_either_face_lists():
    rows = np.eye(4, dtype=np.float32)
    rows[1] = rows[0]
    rows[3] = rows[2]
    # row 0 lists row 1, and row 1 does not list row 0; rows 2 and 3 do not list each other
    listed = np.array([[1], [2], [0], [0]])
    assert measure_recall(rows, np.arange(4), listed, 0.9) == 0.5


def test_a_memory_map_gives_the_same_groups(faces, tmp_path):
    file = tmp_path / "vectors.npy"
    np.save(file, faces)
    expected = group_embeddings(faces, exact=1000)
    mapped = group_embeddings(np.load(file, mmap_mode="r"), exact=1000)
    assert np.array_equal(mapped.labels, expected.labels)
    assert 400 <= expected.labels.max() + 1 < 500


def test_one_and_two_threads_make_the_same_rotation(threads):
    rotations = []
    for number in (1, 2):
        threads(number)
        rotation = _make_rotation(512)
        rotations.append(faiss.vector_to_array(rotation.A).reshape(512, 512))
    assert np.array_equal(rotations[0], rotations[1])
    assert np.abs(rotations[0] @ rotations[0].T - np.eye(512)).max() < 1e-5
