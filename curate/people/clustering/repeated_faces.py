"""Finds the photos that show one person twice, for example with a mirror, a poster or two pictures side by side.

Two faces of one photo never join one group while groups merge (agglomerate.py). If a photo shows a person twice, one of
the two faces is therefore alone after the merging. This file lets such a face join the person. A face that is alone can
also be the person's real face, if another face of the photo joined the person first. In this case, the two faces change
places.
"""

from __future__ import annotations

import numpy as np

from curate.people.clustering.components import IN_MEMORY
from curate.people.clustering.faces_of_one_photo import group_rows_by_photo
from manifests.runtime.workspace import Workspace

# The limits lie between the threshold t and 1: a limit of .55 means a cosine of t + .55 (1 - t). The limits are ours.
# In 2,756 web photos with a threshold of .34, seven pairs of faces of one photo have a cosine above .57. Five of the
# seven pairs show one person twice. One pair shows twin babies, and one pair is a single face that was found twice. The
# faces of two sisters in one photo have a cosine of .48.
REPEATED = 0.55  # Two faces of one photo are one person only if their cosine reaches this limit.
LIKE_PERSON = 0.25  # The face that joins must also reach this limit in its cosine to the person's other photos.
# A person needs faces in MIN_OTHER_PHOTOS other photos, so that twins who are only in one photo stay two people.
MIN_OTHER_PHOTOS = 2
_PHOTOS_AT_ONCE = 512  # number of photos in one step; limits the memory


def raise_threshold(threshold: float, part: float) -> float:
    """Returns threshold + part * (1 - threshold)."""
    return threshold + part * (1 - threshold)


def join_repeated_faces(
    embeddings: np.ndarray,
    order: np.ndarray,
    photos: np.ndarray,
    labels: np.ndarray,
    linked: np.ndarray,
    threshold: float,
    workspace: Workspace = IN_MEMORY,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the groups after single faces joined a person of their photo, and the rows that show a person a second
    time.

    The first result is int64 (n,). The second result has the rows that joined a person who has another face in the same
    photo, int64 (k,). Row i is the unit vector `embeddings[order[i]]`, float32 (d,). `photos` and `labels`, int64 (n,),
    are the photo and the group of each row. `linked`, bool (n,), is True for the rows that a must-link or cannot-link
    names. Linked rows stay in their groups. Two single faces of different photos are one person at a cosine of
    `threshold` or more.
    """
    labels = labels.copy()
    people = _People(embeddings, order, labels, workspace)
    repeated, like_person = raise_threshold(threshold, REPEATED), raise_threshold(threshold, LIKE_PERSON)
    joined: list[int] = []
    for number, rows in enumerate(group_rows_by_photo(photos)):
        if number % _PHOTOS_AT_ONCE == 0:
            people.forget()
        workspace.trim()
        alone = [row for row in rows.tolist() if people.count(labels[row]) == 1 and not linked[row]]
        members = {label: rows[labels[rows] == label] for label in np.unique(labels[rows]).tolist()}
        known = [label for label, own in members.items() if people.count(label) - len(own) >= MIN_OTHER_PHOTOS]
        if not alone or not known:
            continue
        elsewhere = np.stack([people.compute_centre(label, members[label]) for label in known])
        cosines = embeddings[order[alone]] @ elsewhere.T  # (single faces, people of the photo)
        for place in np.argsort(-cosines, axis=None, kind="stable").tolist():
            single, person = divmod(place, len(known))
            row, label, own = alone[single], known[person], members[known[person]]
            if cosines[single, person] < like_person:
                break
            if labels[row] == label or people.count(labels[row]) != 1 or linked[own].any():
                continue
            if (embeddings[order[own]] @ embeddings[order[row]]).max() >= repeated:
                people.move(row, label)
                members[label] = np.append(own, row)
                joined.append(row)
            elif len(own) == 1 and float(embeddings[order[own[0]]] @ elsewhere[person]) < cosines[single, person]:
                old = int(labels[row])
                people.move(row, label)
                people.move(int(own[0]), old)
                members[label] = np.array([row])
    return labels, np.array(sorted(joined), np.int64)


class _People:
    """The sizes and centres of the groups. `move` also changes the array `labels` of the caller.

    A face moves into a group only after `compute_centre` of this group was called.
    """

    def __init__(self, embeddings: np.ndarray, order: np.ndarray, labels: np.ndarray, workspace: Workspace) -> None:
        self._workspace = workspace
        self._embeddings, self._row, self._labels = embeddings, order, labels
        self._members = np.argsort(labels, kind="stable")
        self._count = np.bincount(labels)
        self._first = np.cumsum(self._count) - self._count
        self._last = np.cumsum(self._count)
        self._sums: dict[int, np.ndarray] = {}  # label -> the sum of the group's vectors, float64 (d,)
        self._changed: set[int] = set()  # the labels of `_sums` whose groups have changed

    def count(self, label: int) -> int:
        return int(self._count[label])

    def compute_centre(self, label: int, left_out: np.ndarray) -> np.ndarray:
        """Returns the normalised mean of a group's vectors without the rows `left_out`, float64 (d,)."""
        if label not in self._sums:
            self._sums[label] = self._add(self._members[self._first[label] : self._last[label]])
        centre = self._sums[label] - self._add(left_out)
        return np.asarray(centre / max(float(np.linalg.norm(centre)), 1e-12))

    def forget(self) -> None:
        """Frees the memory of the sums that can be computed again."""
        self._sums = {label: total for label, total in self._sums.items() if label in self._changed}

    def move(self, row: int, label: int) -> None:
        old = int(self._labels[row])
        for group, sign in ((old, -1), (label, 1)):
            if group in self._sums:
                self._changed.add(group)
                self._sums[group] = self._sums[group] + sign * self._embeddings[self._row[row]]
            self._count[group] += sign
        self._labels[row] = label

    def _add(self, rows: np.ndarray) -> np.ndarray:
        vectors = self._workspace.read_rows(self._embeddings, self._row[rows])
        return np.asarray(vectors.sum(axis=0, dtype=np.float64))
