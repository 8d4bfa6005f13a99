"""Measures how certain a grouping is: the confidence and the margin of each face.

The function `count_cosines` makes histograms of the cosines.
"""

from __future__ import annotations

import numpy as np

from curate.people.clustering.components import IN_MEMORY, normalise_rows, sum_rows
from curate.people.clustering.neighbours import search_rows
from manifests.runtime.workspace import Workspace

# To compute the margin of a face, the face is compared with the groups of its _RIVALS nearest neighbours in other
# groups. If all neighbours of the face are in its own group, the face is compared with the _RIVALS groups nearest to
# its own group.
_RIVALS = 4
_ROWS_AT_ONCE = 2**14  # number of rows in one step; limits the memory


def measure_confidence(
    embeddings: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    near: np.ndarray,
    workspace: Workspace = IN_MEMORY,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the confidence and the margin of each face, float32 (n,) each.

    The confidence of a face is its mean cosine to the other faces of the group. The confidence of a face that is alone
    in its group is 1. The margin of a face is its confidence minus its mean cosine to the faces of the nearest other
    group. `near` are the row numbers of the neighbours of each face, int32 (n, k), the nearest first, and -1 if fewer
    were found. Row i of `labels`, of `near` and of the result belongs to the face `embeddings[order[i]]`.
    """
    n = len(labels)
    total, count = sum_rows(embeddings, order, labels, workspace), np.bincount(labels)
    rivals = _find_rival_groups(total, count, labels, near, workspace)
    confidence, margin = np.ones(n, np.float32), np.full(n, 2.0, np.float32)
    for begin in range(0, n, _ROWS_AT_ONCE):
        rows = slice(begin, min(begin + _ROWS_AT_ONCE, n))
        vectors, label = embeddings[order[rows]], labels[rows]

        # The confidence follows from the dot product of the face and the sum of its group. The dot product includes the
        # cosine of the face with itself, so 1 is subtracted.
        own = count[label]
        to_own = np.einsum("nd,nd->n", vectors, workspace.read_rows(total, label)) - 1.0
        confidence[rows] = np.where(own > 1, to_own / np.maximum(own - 1, 1), 1.0)
        if near.shape[1] == 0:
            continue

        # Find the cosine to the nearest other group, float64 (rows,). Only the groups of the first _RIVALS
        # neighbours outside the face's own group are compared.
        neighbour_label = np.where(near[rows] >= 0, labels[near[rows]], label[:, None])
        is_other = neighbour_label != label[:, None]
        nearest = np.full(len(label), -1.0)
        for column in np.argsort(~is_other, axis=1, kind="stable")[:, :_RIVALS].T:
            other = neighbour_label[np.arange(len(label)), column]
            cosine = np.einsum("nd,nd->n", vectors, workspace.read_rows(total, other)) / count[other]
            nearest = np.where(other != label, np.maximum(nearest, cosine), nearest)

        # If a face has no neighbour in another group, compare the face with the groups near its own group.
        enclosed = np.flatnonzero(~is_other.any(1))
        for column in range(rivals.shape[1]):
            other = rivals[label[enclosed], column]
            exists = other >= 0
            place, other = enclosed[exists], other[exists]
            cosine = np.einsum("nd,nd->n", vectors[place], workspace.read_rows(total, other)) / count[other]
            nearest[place] = np.maximum(nearest[place], cosine)
        margin[rows] = confidence[rows] - nearest
        workspace.trim()
    return confidence, margin


def _find_rival_groups(
    total: np.ndarray, count: np.ndarray, labels: np.ndarray, near: np.ndarray, workspace: Workspace
) -> np.ndarray:
    """Returns for each group the _RIVALS groups with the nearest centres, int64 (groups, _RIVALS).

    If each face of a group has a neighbour in another group, all values of the group are -1.
    """
    groups = len(count)
    enclosed = np.ones(len(labels), bool)  # whether all neighbours of the face are in its own group
    for begin in range(0, len(labels), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        neighbour_label = np.where(near[rows] >= 0, labels[near[rows]], labels[rows][:, None])
        enclosed[rows] = (neighbour_label == labels[rows][:, None]).all(1)
    rivals = np.full((groups, _RIVALS), -1)
    groups_to_search = np.unique(labels[enclosed]) if near.shape[1] else np.zeros(0, np.int64)
    if len(groups_to_search) == 0 or groups == 1:
        return rivals
    centres = workspace.make_array(total.shape, np.float32)
    for begin in range(0, groups, _ROWS_AT_ONCE):
        centres[begin : begin + _ROWS_AT_ONCE] = total[begin : begin + _ROWS_AT_ONCE]
        workspace.trim()
    normalise_rows(centres, workspace)
    k = min(_RIVALS + 1, groups)  # one more group than needed, because the search also returns the group itself
    queries = workspace.read_rows(centres, groups_to_search)
    _, nearest = search_rows(queries, centres, np.arange(groups), k, workspace)
    for group, row in zip(groups_to_search, nearest, strict=True):
        others = row[row != group][:_RIVALS]
        rivals[group, : len(others)] = others
    return rivals


def count_cosines(
    embeddings: np.ndarray, labels: np.ndarray, bins: int = 100, max_faces: int = 3000
) -> dict[str, list[float]]:
    """Returns histograms of the cosines within groups and between groups, for at most `max_faces` faces.

    If there are more than `max_faces` faces, evenly spaced rows are used. In the dict, `edges` has `bins` + 1 numbers
    from -1 to 1, and `within` and `between` have `bins` counts each.
    """
    sample = np.unique(np.linspace(0, max(len(embeddings) - 1, 0), min(max_faces, len(embeddings))).astype(int))
    vectors, label = embeddings[sample], labels[sample]
    edges = np.linspace(-1, 1, bins + 1)
    upper = np.triu_indices(len(vectors), 1)
    cosine, same = (vectors @ vectors.T)[upper], (label[:, None] == label[None, :])[upper]
    return {
        "edges": edges.round(4).tolist(),
        "within": np.histogram(cosine[same], edges)[0].tolist(),
        "between": np.histogram(cosine[~same], edges)[0].tolist(),
    }
