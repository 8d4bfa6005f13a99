"""The nearest neighbours of every face: exact up to a size, then an inverted file whose recall is measured."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

# up to here every face is compared with every other: 200,000 faces of 512 dimensions take some ten minutes on 2 cores
EXACT = 200_000
# an inverted file of about 4 sqrt(n) cells, of which each query visits this many (ours: recall .99 of same-person
# neighbours on synthetic faces; docs/grouping.md)
_PROBES = 64
_TRAIN_A_CELL = 48  # faces a cell that k-means sees; faiss warns below 39
_RECALL_QUERIES = 1000
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Neighbours:
    row: np.ndarray  # int32 (n, k): the k nearest other rows, nearest first; -1 where the search found fewer
    cosine: np.ndarray  # float32 (n, k)
    recall: float  # share of the true neighbours above `at_least` that were found, 1.0 where the search is exact


def find_neighbours(
    embeddings: np.ndarray, order: np.ndarray, k: int, at_least: float, exact: int = EXACT
) -> Neighbours:
    """The `k` nearest other rows of each unit row of `embeddings`, float32 (n, d), taken in `order`.

    Row i of the answer, and the rows it names, count in that order. `at_least` is the cosine from which a neighbour
    counts for the recall. Up to `exact` rows the search is exact; beyond, recall is measured on evenly spaced rows.
    Cosines are rounded to 1e-6: faiss's last bits follow the number of threads.
    """
    n, d = embeddings.shape
    k = min(k, n - 1)
    if k <= 0:
        return Neighbours(np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32), 1.0)
    index = faiss.IndexFlatIP(d) if n <= exact else _inverted_file(embeddings, order)
    for begin in range(0, n, _ROWS_AT_ONCE):
        index.add(embeddings[order[begin : begin + _ROWS_AT_ONCE]])
    row, cosine = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    for begin in range(0, n, _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, n)
        alike, found = index.search(embeddings[order[begin:end]], k + 1)
        own = found == np.arange(begin, end)[:, None]
        own[~own.any(1), -1] = True  # among many equal rows a row may not be its own neighbour
        row[begin:end], cosine[begin:end] = found[~own].reshape(-1, k), alike[~own].reshape(-1, k).round(6)
    return Neighbours(row, cosine, 1.0 if n <= exact else _recall(embeddings, order, row, at_least))


def _inverted_file(embeddings: np.ndarray, order: np.ndarray) -> faiss.IndexIVF:
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


def _recall(embeddings: np.ndarray, order: np.ndarray, row: np.ndarray, at_least: float) -> float:
    n, k = row.shape
    asked = np.unique(np.linspace(0, n - 1, _RECALL_QUERIES).astype(np.int64))
    exact = faiss.ResultHeap(len(asked), k + 1, keep_max=True)
    for begin in range(0, n, _ROWS_AT_ONCE):
        part = embeddings[order[begin : begin + _ROWS_AT_ONCE]]
        alike, found = faiss.knn(embeddings[order[asked]], part, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
        exact.add_result(alike, found + begin)
    exact.finalize()
    wanted = (at_least <= exact.D) & (asked[:, None] != exact.I)
    found = (exact.I[:, :, None] == row[asked][:, None, :]).any(2)
    return float((found & wanted).sum() / max(wanted.sum(), 1))
