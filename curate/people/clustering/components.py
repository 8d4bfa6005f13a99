"""Finds the connected components of a graph of rows, and sums the rows of each component."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_matrix
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
    total = np.zeros((int(labels.max()) + 1, vectors.shape[1]), np.float32)
    by_label = np.argsort(labels, kind="stable")
    is_single = np.bincount(labels)[labels[by_label]] == 1  # whether the label has one row, which needs no sum
    for part in _divide(by_label[is_single]):
        total[labels[part]] = vectors[order[part]]
    for part in _divide(by_label[~is_single]):
        first = np.flatnonzero(np.concatenate([[True], np.diff(labels[part]) > 0]))
        total[labels[part[first]]] += np.add.reduceat(vectors[order[part]], first, axis=0)
    return total


def normalise_rows(vectors: np.ndarray) -> None:
    """Divides each row of `vectors`, float32 (n, d), by its length. Rows of zeros do not change."""
    for part in _divide(vectors):
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)


def _divide(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[begin : begin + _ROWS_AT_ONCE] for begin in range(0, len(rows), _ROWS_AT_ONCE))
