"""Finds the connected components of a graph of rows, and sums the rows of each component."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

_ROWS_AT_ONCE = 2**16  # number of rows in one step; limits the memory


def label_components(n: int, pairs: np.ndarray) -> np.ndarray:
    """Returns a label for each of `n` rows, int64 (n,). Rows that `pairs` connect get one label.

    `pairs` are pairs of row numbers, int (m, 2). Two rows are also connected if a chain of pairs connects them.
    """
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1]).astype(np.int64)


def sum_rows(vectors: np.ndarray, order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the sum of the rows of each label, float32 (number of labels, d).

    `labels[i]` is the label of the row `vectors[order[i]]`. Labels are numbered from 0 without gaps.
    """
    shape = int(labels.max()) + 1, len(vectors)
    members = csr_matrix((np.ones(len(labels), np.float32), (labels, order)), shape)
    return np.asarray(members @ vectors)  # takes a tenth of the time of np.add.reduceat


def normalise_rows(vectors: np.ndarray) -> None:
    """Divides each row of `vectors`, float32 (n, d), by its length. Rows of zeros do not change."""
    for begin in range(0, len(vectors), _ROWS_AT_ONCE):
        part = vectors[begin : begin + _ROWS_AT_ONCE]
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
