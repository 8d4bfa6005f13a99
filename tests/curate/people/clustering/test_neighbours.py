"""Tests that a GPU searches for neighbours if faiss can use one. The GPU of the tests is faiss on the CPU."""

import faiss
import numpy as np
import pytest

from curate.people.clustering.group_embeddings import group_embeddings
from curate.people.clustering.neighbours import find_neighbours


def make_rows(n: int, d: int = 16) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def gpu(monkeypatch) -> list[int]:
    """Gives faiss a GPU. Returns a list. Each copy of an index to the GPU appends the number of its rows."""
    copied = list[int]()

    def copy(resources: object, number: int, index: faiss.Index) -> faiss.Index:
        assert number == 0 and isinstance(resources, Resources)
        copied.append(index.ntotal)
        return faiss.clone_index(index)

    class Resources:
        pass

    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy, raising=False)
    monkeypatch.setattr("curate.people.clustering.neighbours._gpu_resources", Resources)
    return copied


@pytest.mark.parametrize("exact", [1000, 100])
def test_a_gpu_searches_exactly_if_faiss_has_one(gpu, monkeypatch, exact):
    rows, order = make_rows(400), np.arange(400)
    on_gpu = find_neighbours(rows, order, 5, 0.2, exact)
    assert gpu == [400] and on_gpu.notices == () and on_gpu.recall == 1
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    on_cpu = find_neighbours(rows, order, 5, 0.2)
    assert gpu == [400]
    assert np.array_equal(on_gpu.rows, on_cpu.rows) and np.array_equal(on_gpu.cosines, on_cpu.cosines)


def test_a_gpu_that_fails_is_replaced_by_the_cpu_with_one_sentence(gpu, monkeypatch):
    rows, order = make_rows(60), np.arange(60)
    expected = find_neighbours(rows, order, 5, 0.2)

    def fail(*_):
        raise RuntimeError("Error in virtual void faiss::gpu::alloc\nCUDA error 2 out of memory.")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", fail)
    found = find_neighbours(rows, order, 5, 0.2)
    assert np.array_equal(found.rows, expected.rows) and np.array_equal(found.cosines, expected.cosines)
    (notice,) = found.notices
    assert "runs on the CPU" in notice and "CUDA error 2 out of memory" in notice and "\n" not in notice
    assert group_embeddings(rows, neighbours=5).notices == found.notices
