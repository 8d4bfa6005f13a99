"""Finds the groups that may consist of different people (strangers) whose faces are similar by chance."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from curate.people.clustering.components import IN_MEMORY, sum_rows
from curate.people.clustering.weak_faces import WEAK_FACTOR
from manifests.runtime.workspace import Workspace

# Let c be the cosine of the faces of a group of two faces. The group is doubtful if _EXPECTED_PAIRS (ours) or more
# pairs of strangers in the collection are expected to have a cosine of c or more.
_EXPECTED_PAIRS = 0.2
# In a large collection, a mean cosine of _MOST_SPREADS (ours) times the spread of the cosines between strangers is
# enough: a group with a higher mean cosine is not doubtful. In web photos, 95% of the pairs of faces of one person have
# a higher cosine.
_MOST_SPREADS = 3.5
# Strangers seldom form large groups with a high mean cosine. The limit therefore falls with the number of faces of the
# group. For a group of many faces, the limit is lower by _LESS_FOR_MANY times (ours) the spread.
_LESS_FOR_MANY = 0.5
_ROWS_AT_ONCE = 2**14  # number of groups in one step; limits the memory


def find_doubtful_groups(
    embeddings: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    is_strong: np.ndarray,
    has_formed: np.ndarray,
    spread: float,
    workspace: Workspace = IN_MEMORY,
) -> np.ndarray:
    """Returns which groups are doubtful, bool (groups,).

    A group is doubtful if the mean cosine between its strong faces is below a limit. Strong faces are all faces that
    are not weak (weak_faces.py). A group with fewer than two strong faces is not doubtful. In a group that weak faces
    formed (form_weak_people), all faces count, and the limit is WEAK_FACTOR times as high as in other groups. Row i of
    `labels`, of `is_strong` and of `has_formed`, (n,), belongs to the face `embeddings[order[i]]`. `spread` is the
    spread of the cosines between strangers.

    The limit depends on the number of people, and each face of a doubtful group counts as a person. The function first
    counts all groups as doubtful, and then computes the doubtful groups again until no group changes.
    """
    groups = int(labels.max()) + 1
    rows = np.flatnonzero(is_strong | has_formed)
    n = np.bincount(labels[rows], minlength=groups)
    spreads = np.where(np.bincount(labels, has_formed) > 0, WEAK_FACTOR * spread, spread)  # (groups,)
    doubtful = n > 1
    if len(rows) == 0:
        return doubtful
    # |sum of n unit vectors|^2 = n + the sum of the n (n - 1) cosines of different faces
    total, squared = sum_rows(embeddings, order[rows], labels[rows], workspace), np.zeros(groups)
    for begin in range(0, len(total), _ROWS_AT_ONCE):
        part = total[begin : begin + _ROWS_AT_ONCE]
        squared[begin : begin + len(part)] = np.einsum("gd,gd->g", part, part, dtype=np.float64)
        workspace.trim()
    del total
    mean_cosine = (squared - n) / np.maximum(n * (n - 1), 1)
    while True:
        people = int((~doubtful).sum() + n[doubtful].sum())
        pairs = max(people * (people - 1) / 2, 1)
        limit = min(float(-ndtri(min(_EXPECTED_PAIRS / pairs, 0.5))), _MOST_SPREADS)
        least = (limit - _LESS_FOR_MANY + 2 * _LESS_FOR_MANY / np.maximum(n, 2)) * spreads
        fewer = (n > 1) & (mean_cosine < least)
        if (fewer == doubtful).all():
            return doubtful
        doubtful = fewer
