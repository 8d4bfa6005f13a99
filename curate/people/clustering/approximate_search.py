"""Finds the nearest neighbours of many faces, without comparing each face with every other face.

An inverted file divides the faces into cells, and stores a short code of each face: for 512 dimensions, 128 numbers of
4 bits, which take 64 bytes. Each face is compared with the codes in the cells that are nearest to it. For the faces
with the best codes, the cosines are then computed from the embeddings. Last, each face is compared with the neighbours
of its neighbours, because these faces often show the same person but lie in other cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd, sqrt
from typing import Any

import faiss
import numpy as np

# The numbers of this file are ours. We chose the numbers on 1,000,000 synthetic faces (docs/grouping.md). The inverted
# file has _CELLS_A_ROOT * sqrt(n) cells, and the search visits _PROBES cells for each face.
_CELLS_A_ROOT, _PROBES = 2, 64
# k-means is trained on _TRAIN_A_CELL faces for each cell. faiss warns if a cell has fewer than _LEAST_A_CELL faces.
_TRAIN_A_CELL, _LEAST_A_CELL = 48, 39
_CODES, _MOST_DIMENSIONS_A_CODE = 128, 4  # About 128 codes for each face, with at most 4 dimensions in a code.
_CANDIDATES = 2  # To find k neighbours, the cosines of the _CANDIDATES * k faces with the best codes are computed.
# Each face is compared with the _NEAR_OF_NEAR nearest neighbours of each of its _NEAR nearest neighbours.
_NEAR, _NEAR_OF_NEAR = 8, 32
_ROWS_AT_ONCE = 2**14  # number of rows in one step; limits the memory


def search_approximately(
    embeddings: np.ndarray, order: np.ndarray, min_cosine: float, rows: np.ndarray, cosines: np.ndarray
) -> None:
    """Fills `rows` and `cosines` with the nearest neighbours that the search finds, the nearest first.

    Row i is the unit row `embeddings[order[i]]`, float32 (d,). `rows`, int32 (n, k), gets row numbers, and -1 if the
    search finds fewer than k neighbours. `cosines`, float32 (n, k), gets cosines, rounded to 1e-6. A row is compared
    with a neighbour of its neighbour only if both pairs of neighbours have a cosine of `min_cosine` or more.
    """
    n, k = rows.shape
    rotation, index = _make_index(embeddings, order)
    for part, vectors in _read_blocks(embeddings, order):
        candidates = index.search(rotation.apply(vectors), min(_CANDIDATES * k + 1, n))[1]
        candidates[candidates == np.arange(part.start, part.stop)[:, None]] = -1
        cosine = _compute_cosines(vectors, embeddings, order, candidates)
        rows[part], cosines[part] = _keep_nearest(candidates, cosine, k)
    _compare_neighbours_of_neighbours(embeddings, order, min_cosine, rows, cosines)


def _make_index(embeddings: np.ndarray, order: np.ndarray) -> tuple[Any, faiss.IndexIVF]:
    """Returns a rotation of the embeddings, and an index with the codes of all rotated rows.

    The random rotation gives all dimensions about the same variance, so that the codes are more exact.
    """
    n, d = embeddings.shape
    cells = max(min(int(_CELLS_A_ROOT * sqrt(n)), n // _LEAST_A_CELL), 1)
    rotation = _make_rotation(d)
    codes = d // gcd(d, max(min(d // _CODES, _MOST_DIMENSIONS_A_CODE), 1))
    index = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(d), d, cells, codes, 4, faiss.METRIC_INNER_PRODUCT)
    index.by_residual, index.nprobe = False, min(_PROBES, cells)
    index.cp.max_points_per_centroid, index.cp.niter, index.cp.seed = _TRAIN_A_CELL, 8, 1
    index.pq.cp.min_points_per_centroid = 1
    sample = np.unique(np.linspace(0, n - 1, min(n, cells * _TRAIN_A_CELL)).astype(np.int64))
    index.train(rotation.apply(np.ascontiguousarray(embeddings[order[sample]])))
    for _, vectors in _read_blocks(embeddings, order):
        index.add(rotation.apply(vectors))
    return rotation, index


def _make_rotation(d: int) -> faiss.LinearTransform:
    """Returns a random rotation of d dimensions, computed with the method of Gram and Schmidt.

    faiss.RandomRotationMatrix uses LAPACK, whose last bits depend on the number of threads. The index, and therefore
    the neighbours, would also depend on the number of threads.
    """
    rows = np.random.default_rng(1).normal(size=(d, d))
    for i in range(d):
        rows[i] /= np.sqrt(np.einsum("d,d->", rows[i], rows[i]))
        rows[i + 1 :] -= np.einsum("rd,d->r", rows[i + 1 :], rows[i])[:, None] * rows[i]
    rotation = faiss.LinearTransform(d, d, False)
    faiss.copy_array_to_vector(rows.astype(np.float32).ravel(), rotation.A)
    rotation.is_trained = True
    return rotation


def _compare_neighbours_of_neighbours(
    embeddings: np.ndarray, order: np.ndarray, min_cosine: float, rows: np.ndarray, cosines: np.ndarray
) -> None:
    """Compares each row with the neighbours of its neighbours, and keeps the nearest in `rows` and `cosines`."""
    k = rows.shape[1]
    before = np.where(cosines >= min_cosine, rows, -1)
    for part, vectors in _read_blocks(embeddings, order):
        near = before[part, :_NEAR]  # (q, near)
        candidates = np.where(near[:, :, None] >= 0, before[near, :_NEAR_OF_NEAR], -1).reshape(len(near), -1)
        candidates = _drop_known(candidates, rows[part], np.arange(part.start, part.stop))
        # In every row, the values -1 are at the end. Only the columns with a candidate are computed.
        candidates = np.ascontiguousarray(candidates[:, : int((candidates >= 0).sum(axis=1).max())])
        both = np.concatenate([rows[part], candidates], axis=1)
        cosine = np.concatenate([cosines[part], _compute_cosines(vectors, embeddings, order, candidates)], axis=1)
        rows[part], cosines[part] = _keep_nearest(both, cosine, k)


def _drop_known(candidates: np.ndarray, known: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns each candidate of a row one time, int64 (q, c). The rest of the row is filled with -1.

    The candidates in `known` (q, k), and the row `own` (q,) itself, are left out.
    """
    # The key of row r is 2 r for a known row, and 2 r + 1 for a candidate.
    keys = np.concatenate([own[:, None] * 2, known.astype(np.int64) * 2, candidates.astype(np.int64) * 2 + 1], axis=1)
    keys.sort(axis=1)
    is_new = (keys % 2 == 1) & (keys > 0)
    is_new[:, 1:] &= keys[:, 1:] // 2 != keys[:, :-1] // 2
    new = np.where(is_new, keys // 2, -1)
    new.sort(axis=1)
    return new[:, ::-1][:, : candidates.shape[1]]


def _compute_cosines(
    vectors: np.ndarray, embeddings: np.ndarray, order: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Returns the cosine of each row of `vectors`, float32 (q, d), and each of its candidates, float32 (q, c).

    The cosine of the candidate -1 is minus infinity.
    """
    places = np.ascontiguousarray(np.where(candidates >= 0, order[candidates], -1))
    cosines = np.empty(places.shape, np.float32)
    pointers = [faiss.swig_ptr(array) for array in (cosines, vectors, embeddings, places)]
    # faiss also offers this C++ function in Python, but the type hints of faiss do not list the function
    compute: Any = vars(faiss)["fvec_inner_products_by_idx"]
    compute(*pointers, vectors.shape[1], *places.shape)
    cosines[places < 0] = -np.inf
    return cosines


def _keep_nearest(candidates: np.ndarray, cosines: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` candidates with the highest cosines in each row, and the cosines, rounded to 1e-6."""
    cosines = cosines.round(6)
    best = np.lexsort((candidates, -cosines), axis=1)[:, :k]
    return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(cosines, best, axis=1)


def _read_blocks(embeddings: np.ndarray, order: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields slices of `order`, and the rows of `embeddings` in each slice, float32 (q, d)."""
    for begin in range(0, len(order), _ROWS_AT_ONCE):
        part = slice(begin, min(begin + _ROWS_AT_ONCE, len(order)))
        yield part, np.ascontiguousarray(embeddings[order[part]])
