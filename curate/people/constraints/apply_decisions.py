"""Applies decisions and labels to a grouping, after the clustering.

The clustering knows a decision only as links between two faces. Some decisions cannot be expressed as links between two
faces. For example, a locked identity accepts no face of another identity. Another example is a decision that separates
one face from all faces of a person with many faces. The functions of this file enforce all decisions after the
clustering.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from curate.people.clustering.group_embeddings import Grouping
from curate.people.constraints.links import Links


def apply_decisions(vectors: np.ndarray, grouping: Grouping, links: Links, before: Sequence[str | None]) -> Grouping:
    """Returns the grouping after all changes that the decisions and labels require.

    `vectors` are unit rows, float32 (n, d). `before` is the identity of each face in the previous run, or None for a
    new face. The result has these properties:
    - The faces of a block (`Links.block`) are in one group.
    - Two faces are in different groups if they have different labels, or belong to different locked identities.
    - A locked identity contains no face that belonged to another identity before, but may contain new faces.
    - Two faces that a decision separates are in different groups.

    If a group is divided, a face without a constraint joins the most similar part. A group that changes is not
    doubtful, and the confidence and margin of its faces are measured again. For the new margin, a face is compared with
    the other parts of its old group, and with the group that was nearest before the change.
    """
    if not len(vectors):
        return grouping
    labels = regroup_by_links(grouping.labels.astype(np.int64), links, before, vectors)
    if (labels == grouping.labels).all():
        return grouping
    return _measure_again(vectors, grouping, labels)


def regroup_by_links(
    labels: np.ndarray, links: Links, before: Sequence[str | None], vectors: np.ndarray | None = None
) -> np.ndarray:
    """Returns the labels of the grouping that `apply_decisions` returns, int64 (n,).

    `labels` are the labels of the clustering, int64 (n,) with n of 1 or more. If a group is divided and `vectors` is
    None, a face without a constraint joins the part with the most faces.
    """
    blocks = _RowsByNumber(links.block)
    labels = _join_blocks(labels, blocks)
    labels = _divide_groups(vectors, labels, _assign_owners(labels, links, blocks, before), links.block)

    # A face leaves its group if a decision separates it from another face of the group. The faces that leave a group,
    # and all faces in their blocks, form one new group.
    new_label = int(labels.max()) + 1
    for leaving, staying in links.separations:
        staying_labels = set(labels[list(staying)].tolist())
        blocks_leaving: dict[int, set[int]] = {}  # group -> the blocks that leave the group
        for row in leaving:
            if int(labels[row]) in staying_labels:
                blocks_leaving.setdefault(int(labels[row]), set()).add(int(links.block[row]))
        for group in sorted(blocks_leaving):
            for block in blocks_leaving[group]:
                labels[blocks.get_rows(block)] = new_label
            new_label += 1
    return labels


class _RowsByNumber:
    """Finds the rows of an array that contain a given number. Sorts the array only one time."""

    def __init__(self, numbers: np.ndarray) -> None:
        """`numbers` are integers of 0 or more, int (n,)."""
        self._order = np.argsort(numbers, kind="stable")
        self.count = np.bincount(numbers)
        self._end = np.cumsum(self.count)

    def get_rows(self, number: int) -> np.ndarray:
        """Returns the rows that contain `number`, in ascending order."""
        return self._order[self._end[number] - self.count[number] : self._end[number]]


def _join_blocks(labels: np.ndarray, blocks: _RowsByNumber) -> np.ndarray:
    """Returns the labels after each block has moved into the group that contains most faces of the block."""
    labels = labels.copy()
    for block in np.flatnonzero(blocks.count > 1).tolist():
        rows = blocks.get_rows(block)
        if len(set(labels[rows].tolist())) > 1:
            labels[rows] = min(Counter(labels[rows].tolist()).items(), key=lambda item: (-item[1], item[0]))[0]
    return labels


def _assign_owners(labels: np.ndarray, links: Links, blocks: _RowsByNumber, before: Sequence[str | None]) -> np.ndarray:
    """Returns the owner of each face, int64 (n,). Faces with different owners must not be in one group.

    An owner is a number. In an exclusive block, the owner of every face is the number of the block. A face in the group
    of a locked identity may have belonged to a different identity before. The owner of such a face is a number from n
    upwards. A face with the owner -1 may be in any group.
    """
    n, block = len(labels), links.block
    owner = np.where(np.isin(block, sorted(links.exclusive)), block, -1)

    # group -> the identities that its locked blocks had in the previous run. The identity of a block is the identity
    # that most faces of the block had.
    locked_identities: dict[int, set[str]] = {}
    for locked in sorted(links.locked):
        rows = blocks.get_rows(locked)
        votes = Counter(str(before[row]) for row in rows.tolist() if before[row] is not None)
        if votes:
            identity = min(votes.items(), key=lambda item: (-item[1], item[0]))[0]
            locked_identities.setdefault(int(labels[rows[0]]), set()).add(identity)

    # Each earlier identity gets a number from n upwards. A face in the group of a locked identity may have belonged to
    # a different identity before. The number of this earlier identity then becomes the owner of the face. All faces of
    # a block get the owner that the first such face of the block gets.
    if locked_identities:
        identities = sorted({identity for identity in before if identity is not None})
        number = {identity: n + i for i, identity in enumerate(identities)}
        owner_of_block: dict[int, int] = {}
        for row in np.flatnonzero((owner < 0) & np.isin(labels, sorted(locked_identities))).tolist():
            previous = before[row]
            if previous is not None and previous not in locked_identities[int(labels[row])]:
                owner[row] = owner_of_block.setdefault(int(block[row]), number[previous])
        for row in np.flatnonzero((owner < 0) & np.isin(labels, sorted(locked_identities))).tolist():
            owner[row] = owner_of_block.get(int(block[row]), -1)
    return owner


def _divide_groups(vectors: np.ndarray | None, labels: np.ndarray, owner: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Returns the labels after dividing each group with several owners into one group for each owner.

    A block without an owner joins the new group with the most similar mean embedding. Without `vectors`, such a block
    joins the new group with the most faces.
    """
    labels = labels.copy()
    pairs = np.unique(np.stack([labels[owner >= 0], owner[owner >= 0]], axis=1), axis=0)  # (group, owner)
    groups, count = np.unique(pairs[:, 0], return_counts=True)
    new_label = int(labels.max()) + 1
    members = _RowsByNumber(labels)
    for group in groups[count > 1].tolist():
        rows = members.get_rows(group)
        own = owner[rows]
        # the mean embedding of each owner's faces, float64 (owners, d)
        owners, index = np.unique(own[own >= 0], return_inverse=True)
        if vectors is not None:
            total = np.zeros((len(owners), vectors.shape[1]))
            np.add.at(total, index, vectors[rows[own >= 0]])
            mean = total / np.bincount(index)[:, None]
        place = np.empty(len(rows), np.int64)  # the row of `mean` that belongs to the new owner of each face
        place[own >= 0] = index
        free: dict[int, list[int]] = {}  # block without an owner -> positions of its faces in `rows`
        for position in np.flatnonzero(own < 0).tolist():
            free.setdefault(int(block[rows[position]]), []).append(position)
        for positions in free.values():
            alike = np.bincount(index) if vectors is None else mean @ vectors[rows[positions]].sum(0)
            place[positions] = int(alike.argmax())
        labels[rows] = new_label + place
        new_label += len(owners)
    return labels


def _measure_again(vectors: np.ndarray, grouping: Grouping, labels: np.ndarray) -> Grouping:
    """Returns the grouping with new labels. Confidence and margin are measured again for the groups that changed."""
    labels = np.unique(labels, return_inverse=True)[1]
    count, old = np.bincount(labels), _RowsByNumber(grouping.labels)

    # A face is measured again if its group has faces of several old groups, or if its old group was divided. If one
    # face of a group is measured again, all faces of the group are measured again.
    pairs = np.unique(np.stack([labels, grouping.labels], axis=1), axis=0)  # (group, old group)
    mixed = np.bincount(pairs[:, 0]) > 1
    divided = np.bincount(pairs[:, 1], minlength=len(old.count)) > 1
    changed = np.flatnonzero(mixed[labels] | divided[grouping.labels])

    # The confidence of a face is its mean cosine to the other faces of the group. Each row of `total` is the sum of the
    # embeddings of a group, float64 (groups, d). The dot product of a face and the sum includes the cosine of the face
    # with itself, so 1 is subtracted.
    changed_groups, index = np.unique(labels[changed], return_inverse=True)
    total = np.zeros((len(changed_groups), vectors.shape[1]))
    np.add.at(total, index, vectors[changed])
    own = count[labels[changed]]
    to_own = np.einsum("nd,nd->n", vectors[changed], total[index]) - 1.0
    confidence, margin = grouping.confidence.copy(), grouping.margin.copy()
    confidence[changed] = np.where(own > 1, to_own / np.maximum(own - 1, 1), 1.0)

    # The margin needs the nearest other group. The nearest other group is the group that was nearest before the change,
    # or another part of the face's old group.
    nearest = grouping.confidence - grouping.margin
    for group in np.unique(grouping.labels[changed]).tolist():
        rows = old.get_rows(group)
        parts = np.unique(labels[rows])
        cosine = vectors[rows] @ (total[np.searchsorted(changed_groups, parts)] / count[parts, None]).T
        cosine[parts[None, :] == labels[rows][:, None]] = -1.0
        nearest[rows] = np.maximum(nearest[rows], cosine.max(1))
    margin[changed] = (confidence - nearest)[changed]
    doubtful = grouping.doubtful
    if doubtful is not None:
        doubtful = doubtful & ~np.isin(np.arange(len(labels)), changed)
    return replace(grouping, labels=labels, confidence=confidence, margin=margin, doubtful=doubtful)
