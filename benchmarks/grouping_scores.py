"""Scores a grouping against labels, by precision, recall and F: over pairs of faces, and with the method BCubed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def score_pairs(truth: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Returns precision, recall and F over all pairs of faces.

    `truth` (n,) contains the number of each face's label. `groups` (n,) contains the number of each face's group. Both
    numbers count from 0.
    """

    def count_pairs(counts: np.ndarray) -> int:
        return int((counts * (counts - 1) // 2).sum())

    both = count_pairs(_count_cells(truth, groups)[1])
    predicted, true = count_pairs(np.bincount(groups)), count_pairs(np.bincount(truth))
    precision, recall = both / max(predicted, 1), both / max(true, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def score_bcubed(truth: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Returns BCubed precision, recall and F (Bagga and Baldwin 1998). Every face has the same weight."""
    cells, count = _count_cells(truth, groups)
    true_sizes, group_sizes = np.bincount(truth)[cells[0]], np.bincount(groups)[cells[1]]
    precision, recall = (
        float((count**2 / group_sizes).sum() / len(truth)),
        float((count**2 / true_sizes).sum() / len(truth)),
    )
    return precision, recall, 2 * precision * recall / (precision + recall)


def score_grouping(names: Sequence[str] | np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns the pair scores, the BCubed scores, and the numbers of groups, people and faces."""
    truth, groups = np.unique(names, return_inverse=True)[1], np.unique(labels, return_inverse=True)[1]
    keys = ("pair_p", "pair_r", "pair_f", "bcubed_p", "bcubed_r", "bcubed_f")
    scores = (*score_pairs(truth, groups), *score_bcubed(truth, groups))
    row: dict[str, Any] = {key: round(value, 4) for key, value in zip(keys, scores, strict=True)}
    return row | {"groups": int(groups.max()) + 1, "people": int(truth.max()) + 1, "faces": len(truth)}


def _count_cells(truth: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two arrays about the cells of the contingency table that are not empty.

    The first array has the label and the group of each cell, (2, cells). The second array has the number of faces in
    each cell, (cells,).
    """
    width = np.int64(groups.max()) + 1
    keys, count = np.unique(truth.astype(np.int64) * width + groups, return_counts=True)
    return np.stack([keys // width, keys % width]), count
