"""Finds the nearest neighbours of every face.

The search is exact for small collections and approximate for large collections.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import faiss
import numpy as np

# For up to EXACT faces, every face is compared with every other face. For 200,000 faces of 512 dimensions, the
# comparison takes about ten minutes on 2 cores.
EXACT = 200_000
# The approximate search uses an inverted file of about 4 sqrt(n) cells. For each query, the search visits _PROBES cells
# (ours). With 64 cells, the search finds .98 of the true neighbours among 100,000 synthetic faces, and .90 among
# 1,000,000 (docs/grouping.md).
_PROBES = 64
_TRAIN_A_CELL = 48  # k-means is trained on 48 faces for each cell; faiss warns below 39
_RECALL_QUERIES = 1000
_ROWS_AT_ONCE = 2**16  # number of rows in one step; limits the memory


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of n faces."""

    rows: np.ndarray  # int32 (n, k): row numbers, the nearest first; -1 if the search found fewer than k faces.
    cosines: np.ndarray  # Cosine of each face and neighbour, float32 (n, k).
    recall: float  # Share of the neighbours with a cosine of `min_cosine` or more that the search found.
    notices: tuple[str, ...] = ()  # Sentences for the user about a GPU that failed.


def find_neighbours(
    embeddings: np.ndarray, order: np.ndarray, k: int, min_cosine: float, exact: int = EXACT
) -> Neighbours:
    """Returns the `k` nearest other rows of each unit row of `embeddings`, float32 (n, d).

    Row numbers in the result are positions in `order`: row i is `embeddings[order[i]]`. The search is exact for up to
    `exact` rows. For more than `exact` rows, the search is approximate, and its recall is measured on evenly spaced
    rows. The recall is the share of the neighbours with a cosine of `min_cosine` or more that the search finds. Cosines
    are rounded to 1e-6, because their last bits depend on the number of threads of faiss.

    If the installed faiss can use a GPU, the GPU searches. If the GPU fails, the CPU searches, and a notice says so.
    """
    n, d = embeddings.shape
    k = min(k, n - 1)
    if k <= 0:
        return Neighbours(np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32), 1.0)
    index = faiss.IndexFlatIP(d) if n <= exact else _make_inverted_file(embeddings, order)
    for begin in range(0, n, _ROWS_AT_ONCE):
        index.add(embeddings[order[begin : begin + _ROWS_AT_ONCE]])
    rows, cosines, notices = np.empty((n, k), np.int32), np.empty((n, k), np.float32), list[str]()
    if _has_gpu():
        try:
            _search(_copy_to_gpu(index), embeddings, order, rows, cosines)
        except RuntimeError as error:  # faiss raises this class for all failures of a GPU
            cause = (str(error).splitlines() or ["unknown"])[-1].strip(" .")
            notices.append(f"The search for similar faces runs on the CPU, because the GPU failed ({cause}).")
    if notices or not _has_gpu():
        _search(index, embeddings, order, rows, cosines)
    recall = 1.0 if n <= exact else _measure_recall(embeddings, order, rows, min_cosine)
    return Neighbours(rows, cosines, recall, tuple(notices))


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


def _make_inverted_file(embeddings: np.ndarray, order: np.ndarray) -> faiss.IndexIVF:
    """Returns an empty index of about 4 sqrt(n) cells, trained on evenly spaced rows."""
    n, d = embeddings.shape
    cells = int(4 * np.sqrt(n))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(d), d, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.max_points_per_centroid, index.cp.niter, index.cp.seed = _TRAIN_A_CELL, 8, 1
    index.nprobe = _PROBES
    sample = np.unique(np.linspace(0, n - 1, min(n, cells * _TRAIN_A_CELL)).astype(np.int64))
    index.train(embeddings[order[sample]])
    return index


def _measure_recall(embeddings: np.ndarray, order: np.ndarray, rows: np.ndarray, min_cosine: float) -> float:
    """Returns the share of true neighbours that `rows` contains. An exact search finds the true neighbours of
    _RECALL_QUERIES rows.
    """
    n, k = rows.shape
    queries = np.unique(np.linspace(0, n - 1, _RECALL_QUERIES).astype(np.int64))
    exact = faiss.ResultHeap(len(queries), k + 1, keep_max=True)
    for begin in range(0, n, _ROWS_AT_ONCE):
        part = embeddings[order[begin : begin + _ROWS_AT_ONCE]]
        alike, nearest = faiss.knn(embeddings[order[queries]], part, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
        exact.add_result(alike, nearest + begin)
    exact.finalize()
    true = (min_cosine <= exact.D) & (queries[:, None] != exact.I)
    hits = (exact.I[:, :, None] == rows[queries][:, None, :]).any(2)
    return float((hits & true).sum() / max(true.sum(), 1))
