"""Finds the nearest neighbours of every face.

The search is exact for small collections and approximate for large collections.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import faiss
import numpy as np

from curate.people.clustering.approximate_search import search_approximately
from curate.people.clustering.components import IN_MEMORY
from manifests.runtime.workspace import Workspace

# For up to EXACT faces, every face is compared with every other face. For 200,000 faces of 512 dimensions, the
# comparison takes about ten minutes on 2 cores.
EXACT = 200_000
_RECALL_QUERIES = 1000
_ROWS_AT_ONCE = 2**16  # number of rows in one step; limits the memory


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of n faces."""

    rows: np.ndarray  # int32 (n, k): row numbers, the nearest first; -1 if the search found fewer than k faces.
    cosines: np.ndarray  # Cosine of each face and neighbour, float32 (n, k).
    recall: float  # The search found this share of all neighbours with a cosine of `min_cosine` or more.
    notices: tuple[str, ...] = ()  # Sentences for the user about a GPU that failed.


def find_neighbours(
    embeddings: np.ndarray,
    order: np.ndarray,
    k: int,
    min_cosine: float,
    exact: int = EXACT,
    workspace: Workspace = IN_MEMORY,
) -> Neighbours:
    """Returns the `k` nearest other rows of each unit row of `embeddings`, float32 (n, d).

    Row numbers in the result are positions in `order`: row i is `embeddings[order[i]]`. The search is exact for up to
    `exact` rows. For more than `exact` rows, the search is approximate (approximate_search.py), and its recall is
    measured (`measure_recall`). Cosines are rounded to 1e-6, because their last bits depend on the number of threads of
    faiss. `embeddings` may be a memory-mapped file.

    If the installed faiss can use a GPU, the GPU searches, and the search is exact for any number of rows. If the GPU
    fails, the CPU searches, and a notice says so.
    """
    n = len(embeddings)
    k = min(k, n - 1)
    if k <= 0:
        return Neighbours(np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32), 1.0)
    rows, cosines = workspace.make_array((n, k), np.int32), workspace.make_array((n, k), np.float32)
    rows[:], cosines[:], notices = -1, -np.inf, list[str]()
    if _has_gpu():
        try:
            _search(_copy_to_gpu(_make_exact_index(embeddings, order)), embeddings, order, rows, cosines)
            return Neighbours(rows, cosines, 1.0)
        except RuntimeError as error:  # faiss raises this class for all failures of a GPU
            cause = (str(error).splitlines() or ["unknown"])[-1].strip(" .")
            notices.append(f"The search for similar faces runs on the CPU, because the GPU failed ({cause}).")
    if n <= exact:
        _search(_make_exact_index(embeddings, order), embeddings, order, rows, cosines)
        return Neighbours(rows, cosines, 1.0, tuple(notices))
    search_approximately(embeddings, order, min_cosine, rows, cosines, workspace)
    recall = measure_recall(embeddings, order, rows, min_cosine, workspace=workspace)
    return Neighbours(rows, cosines, recall, tuple(notices))


def _make_exact_index(embeddings: np.ndarray, order: np.ndarray) -> faiss.IndexFlatIP:
    index = faiss.IndexFlatIP(embeddings.shape[1])
    for begin in range(0, len(order), _ROWS_AT_ONCE):
        index.add(embeddings[order[begin : begin + _ROWS_AT_ONCE]])
    return index


def _search(index: Any, embeddings: np.ndarray, order: np.ndarray, rows: np.ndarray, cosines: np.ndarray) -> None:
    """Fills `rows` (n, k) and `cosines` (n, k) with the nearest neighbours of each row of `embeddings`."""
    n, k = rows.shape
    for begin in range(0, n, _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, n)
        # Search for k + 1 results for each row, because the search also returns the row itself. Afterwards, remove the
        # row itself from its results.
        alike, nearest = index.search(embeddings[order[begin:end]], k + 1)
        own = nearest == np.arange(begin, end)[:, None]
        # If a row has many equal rows, its results may not contain the row itself. If the row itself is missing, the
        # last result is removed.
        own[~own.any(1), -1] = True
        rows[begin:end], cosines[begin:end] = nearest[~own].reshape(-1, k), alike[~own].reshape(-1, k).round(6)


def _has_gpu() -> bool:
    """Returns whether the installed faiss can use a GPU, and the machine has one."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _copy_to_gpu(index: Any) -> Any:
    """Returns a copy of the index in the memory of the first GPU."""
    return faiss.index_cpu_to_gpu(_gpu_resources(), 0, index)


@cache
def _gpu_resources() -> Any:
    # The resources must exist as long as an index on the GPU exists.
    return faiss.StandardGpuResources()


def measure_recall(
    embeddings: np.ndarray,
    order: np.ndarray,
    rows: np.ndarray,
    min_cosine: float,
    queries: int = _RECALL_QUERIES,
    workspace: Workspace = IN_MEMORY,
) -> float:
    """Of the true neighbours with a cosine of `min_cosine` or more, returns the share that `rows`, (n, k), contains.

    An exact search finds the true neighbours of `queries` evenly spaced rows, at most k for each row. A pair of
    neighbours is found if one of the two rows lists the other row.
    """
    n, k = rows.shape
    sample = np.unique(np.linspace(0, n - 1, queries).astype(np.int64))
    cosines, nearest = search_rows(
        workspace.read_rows(embeddings, order[sample]), embeddings, order, k + 1, workspace=workspace
    )
    query, column = np.nonzero((min_cosine <= cosines) & (sample[:, None] != nearest))
    row, other = sample[query], nearest[query, column]
    hits = (rows[row] == other[:, None]).any(axis=1) | (rows[other] == row[:, None]).any(axis=1)
    return float(hits.mean()) if len(hits) else 1.0


def search_rows(
    queries: np.ndarray, vectors: np.ndarray, order: np.ndarray, k: int, workspace: Workspace = IN_MEMORY
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines of each query and its `k` nearest rows, float32 (q, k), and the row numbers, int64 (q, k).

    `queries`, float32 (q, d), are compared with all rows of `vectors`, float32 (n, d). Row i is `vectors[order[i]]`.
    The rows are read in parts, from the first to the last.
    """
    result = faiss.ResultHeap(len(queries), k, keep_max=True)
    for begin in range(0, len(order), _ROWS_AT_ONCE):
        part = np.ascontiguousarray(workspace.read_rows(vectors, order[begin : begin + _ROWS_AT_ONCE]))
        cosines, nearest = faiss.knn(queries, part, min(k, len(part)), faiss.METRIC_INNER_PRODUCT)
        result.add_result(cosines, nearest + begin)
        workspace.trim()
    result.finalize()
    return np.asarray(result.D), np.asarray(result.I)
