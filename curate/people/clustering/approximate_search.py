"""Finds the nearest neighbours of many faces, without comparing each face with every other face.

An inverted file divides the faces into cells, and stores a short code of each face: for 512 dimensions, 128 numbers of
4 bits, which take 64 bytes. Each face is compared with the codes in the cells that are nearest to it. For the faces
with the best codes, the cosines are then computed from the embeddings. Last, each face is compared with the neighbours
of its neighbours, because these faces often show the same person but lie in other cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd, sqrt
from typing import Any

import faiss
import numpy as np

from manifests.runtime.workspace import Workspace

# The numbers of this file are ours. We chose the numbers on 1,000,000 synthetic faces (docs/grouping.md). The inverted
# file has _CELLS_A_ROOT * sqrt(n) cells, and the search visits _PROBES cells for each face.
_CELLS_A_ROOT, _PROBES = 2, 64
# k-means is trained on _TRAIN_A_CELL faces for each cell. faiss warns if a cell has fewer than _LEAST_A_CELL faces.
_TRAIN_A_CELL, _LEAST_A_CELL = 48, 39
_CODES, _MOST_DIMENSIONS_A_CODE = 128, 4  # About 128 codes for each face, with at most 4 dimensions in a code.
_CANDIDATES = 2  # To find k neighbours, the cosines of the _CANDIDATES * k faces with the best codes are computed.
# Each face is compared with the _NEAR_OF_NEAR nearest neighbours of each of its _NEAR nearest neighbours.
_NEAR, _NEAR_OF_NEAR = 8, 32
_ROWS_AT_ONCE = 2**14  # Number of rows in one step; limits the memory.
_BYTES_A_CANDIDATE = 48  # the memory for a candidate of a row, with all copies, at most


def search_approximately(
    embeddings: np.ndarray,
    order: np.ndarray,
    min_cosine: float,
    rows: np.ndarray,
    cosines: np.ndarray,
    workspace: Workspace,
) -> None:
    """Fills `rows` and `cosines` with the nearest neighbours that the search finds, the nearest first.

    Row i is the unit row `embeddings[order[i]]`, float32 (d,). `rows`, int32 (n, k), gets row numbers, and -1 if the
    search finds fewer than k neighbours. `cosines`, float32 (n, k), gets cosines, rounded to 1e-6. A row is compared
    with a neighbour of its neighbour only if both pairs of neighbours have a cosine of `min_cosine` or more.
    """
    _compare_codes(embeddings, order, rows, cosines, workspace)
    _compare_neighbours_of_neighbours(embeddings, order, min_cosine, rows, cosines, workspace)


def _compare_codes(
    embeddings: np.ndarray, order: np.ndarray, rows: np.ndarray, cosines: np.ndarray, workspace: Workspace
) -> None:
    """Finds the rows with the best codes, and fills `rows` and `cosines` with the nearest of these rows."""
    n, k = rows.shape
    rotation, index = _make_index(embeddings, order, workspace)
    most = min(_CANDIDATES * k + 1, n)

    def find_candidates(part: slice) -> np.ndarray:
        candidates = index.search(rotation.apply(_read(embeddings, order, part)), most)[1]
        candidates[candidates == np.arange(part.start, part.stop)[:, None]] = -1
        return np.asarray(candidates)

    for part, candidates in _find_in_blocks(find_candidates, n, most * _BYTES_A_CANDIDATE, workspace):
        cosine = _compute_cosines(embeddings, order, part, candidates, workspace)
        for begin in range(0, len(candidates), _ROWS_AT_ONCE):
            own = slice(part.start + begin, min(part.start + begin + _ROWS_AT_ONCE, part.stop))
            block = slice(begin, begin + _ROWS_AT_ONCE)
            rows[own], cosines[own] = _keep_nearest(candidates[block], cosine[block], k)
            workspace.trim()


def _find_in_blocks(
    find: Callable[[slice], np.ndarray], n: int, row_bytes: int, workspace: Workspace
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields slices of the rows, and their candidates, int32 (q, c). The last candidates of a row may be -1.

    `find` returns the candidates of a slice of at most _ROWS_AT_ONCE rows. The candidates of a row take at most about
    `row_bytes` bytes of memory. If the memory is limited, the yielded slices have more rows. The caller reads the whole
    file of embeddings for each slice, so fewer slices need fewer reads.
    """
    steps = 1
    if workspace.memory is not None:
        steps = max(workspace.slack // 2 // (_ROWS_AT_ONCE * row_bytes), 1)
    for begin in range(0, n, steps * _ROWS_AT_ONCE):
        end = min(begin + steps * _ROWS_AT_ONCE, n)
        found = []
        for start in range(begin, end, _ROWS_AT_ONCE):
            found.append(find(slice(start, min(start + _ROWS_AT_ONCE, end))))
            workspace.trim()
        width = max(part.shape[1] for part in found)
        candidates = np.full((end - begin, width), -1, np.int32)
        for start, part in zip(range(0, end - begin, _ROWS_AT_ONCE), found, strict=True):
            candidates[start : start + len(part), : part.shape[1]] = part
        del found
        yield slice(begin, end), candidates


def _make_index(embeddings: np.ndarray, order: np.ndarray, workspace: Workspace) -> tuple[Any, faiss.IndexIVF]:
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
    index.train(rotation.apply(np.ascontiguousarray(workspace.read_rows(embeddings, order[sample]))))
    for begin in range(0, n, _ROWS_AT_ONCE):
        index.add(rotation.apply(_read(embeddings, order, slice(begin, begin + _ROWS_AT_ONCE))))
        workspace.trim()
    return rotation, index


def _make_rotation(d: int) -> faiss.LinearTransform:
    """Returns a random rotation of d dimensions, computed with the method of Gram and Schmidt.

    faiss.RandomRotationMatrix uses LAPACK. The last bits of LAPACK's results depend on the number of threads, so the
    index and the neighbours would also depend on the number of threads.
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
    embeddings: np.ndarray,
    order: np.ndarray,
    min_cosine: float,
    rows: np.ndarray,
    cosines: np.ndarray,
    workspace: Workspace,
) -> None:
    """Compares each row with the neighbours of its neighbours, and keeps the nearest in `rows` and `cosines`."""
    n, k = rows.shape
    before = np.empty((n, min(k, _NEAR_OF_NEAR)), np.int32)
    for begin in range(0, n, _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        before[part] = np.where(cosines[part] >= min_cosine, rows[part], -1)[:, :_NEAR_OF_NEAR]
        workspace.trim()

    def find_candidates(part: slice) -> np.ndarray:
        near = before[part, :_NEAR]  # (q, near)
        candidates = np.where(near[:, :, None] >= 0, before[near], -1).reshape(len(near), -1)
        candidates = _drop_known(candidates, rows[part], np.arange(part.start, part.stop))
        # In every row, the values -1 are at the end. Only the columns with a candidate are computed.
        return candidates[:, : int((candidates >= 0).sum(axis=1).max())]

    # Most candidates of a row are known already, so half of the memory for all candidates is enough.
    row_bytes = _NEAR * _NEAR_OF_NEAR * _BYTES_A_CANDIDATE // 2
    for part, candidates in _find_in_blocks(find_candidates, n, row_bytes, workspace):
        cosine = _compute_cosines(embeddings, order, part, candidates, workspace)
        for begin in range(0, len(candidates), _ROWS_AT_ONCE):
            own = slice(part.start + begin, min(part.start + begin + _ROWS_AT_ONCE, part.stop))
            block = slice(begin, begin + _ROWS_AT_ONCE)
            both = np.concatenate([rows[own], candidates[block]], axis=1)
            rows[own], cosines[own] = _keep_nearest(both, np.concatenate([cosines[own], cosine[block]], axis=1), k)
            workspace.trim()


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
    embeddings: np.ndarray, order: np.ndarray, part: slice, candidates: np.ndarray, workspace: Workspace
) -> np.ndarray:
    """Returns the cosine between each row of the slice `part` and each candidate of this row, float32 (q, c).

    The cosine of the candidate -1 is minus infinity. The parts of `divide_reads` do not change the cosines, because
    each cosine is computed alone.
    """
    cosines = np.full(candidates.shape, -np.inf, np.float32)
    places = np.flatnonzero(candidates >= 0)  # of the candidates, row by row
    own = order[part]
    for chosen in workspace.divide_reads(candidates.ravel()[places], embeddings.strides[0]):
        chosen = places[chosen]
        first, second = own[chosen // candidates.shape[1]], order[candidates.ravel()[chosen]]
        result = np.empty(len(chosen), np.float32)
        x, a, b, y = (faiss.swig_ptr(array) for array in (embeddings, first, second, result))
        # faiss also offers this C++ function in Python, but the type hints of faiss do not list the function
        compute: Any = vars(faiss)["pairwise_indexed_inner_product"]
        compute(embeddings.shape[1], len(chosen), x, a, x, b, y)
        cosines.ravel()[chosen] = result
        workspace.trim()
    return cosines


def _keep_nearest(candidates: np.ndarray, cosines: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` candidates with the highest cosines in each row, and the cosines, rounded to 1e-6."""
    cosines = cosines.round(6)
    best = np.lexsort((candidates, -cosines), axis=1)[:, :k]
    return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(cosines, best, axis=1)


def _read(embeddings: np.ndarray, order: np.ndarray, part: slice) -> np.ndarray:
    """Returns the rows of `embeddings` in a slice of `order`, float32 (q, d)."""
    return np.ascontiguousarray(embeddings[order[part]])
