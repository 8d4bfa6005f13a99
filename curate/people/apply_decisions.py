"""Decisions and labels upheld over any grouping: what the grouping was told, it keeps; what it could not know is done
here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from curate.people.clustering.group_embeddings import Grouping
from curate.people.links import Links


def apply_decisions(vectors: np.ndarray, found: Grouping, links: Links, before: Sequence[str | None]) -> Grouping:
    """The grouping with every decision and label kept, whatever made it.

    `vectors` float32 (n, d) unit rows; `before` holds the identity each face had in the run before, None for a face
    that is new. Blocks come together; two labels, two locked identities never share a group; a face that belonged to
    somebody else leaves a locked identity, one that never belonged to anybody may join it; faces that were split apart
    are apart. A face without a say in it goes where it is most alike. Confidence and margin of groups that changed are
    measured again, the margin against the groups it came apart from and the nearest one known before.
    """
    if not len(vectors):
        return found
    blocks = _Members(links.block)
    labels = _together(found.labels.astype(np.int64), blocks)
    labels = _divided(vectors, labels, _anchors(labels, links, blocks, before), links.block)
    fresh = int(labels.max()) + 1
    for out, rest in links.apart:
        others = set(labels[list(rest)].tolist())
        torn: dict[int, set[int]] = {}  # group -> its blocks that leave it, together
        for row in out:
            if int(labels[row]) in others:
                torn.setdefault(int(labels[row]), set()).add(int(links.block[row]))
        for group in sorted(torn):
            for block in torn[group]:
                labels[blocks.of(block)] = fresh
            fresh += 1
    if (labels == found.labels).all():
        return found
    return _measured(vectors, found, labels)


class _Members:
    """The rows of each number, ascending, after one sort."""

    def __init__(self, number: np.ndarray) -> None:
        """`number` int (n,), 0 or more."""
        self._order = np.argsort(number, kind="stable")
        self.count = np.bincount(number)
        self._end = np.cumsum(self.count)

    def of(self, number: int) -> np.ndarray:
        return self._order[self._end[number] - self.count[number] : self._end[number]]


def _together(labels: np.ndarray, blocks: _Members) -> np.ndarray:
    """Each block in the group that holds most of it."""
    labels = labels.copy()
    for block in np.flatnonzero(blocks.count > 1).tolist():
        rows = blocks.of(block)
        if len(set(labels[rows].tolist())) > 1:
            labels[rows] = min(Counter(labels[rows].tolist()).items(), key=lambda item: (-item[1], item[0]))[0]
    return labels


def _anchors(labels: np.ndarray, links: Links, blocks: _Members, before: Sequence[str | None]) -> np.ndarray:
    """int64 (n,): faces of one group with different anchors come apart; -1 goes where it is most alike."""
    n, block = len(labels), links.block
    anchor = np.where(np.isin(block, sorted(links.exclusive)), block, -1)
    held: dict[int, set[str]] = {}  # group -> identities that its locked blocks had before
    for one in sorted(links.locked):
        rows = blocks.of(one)
        had = Counter(str(before[row]) for row in rows.tolist() if before[row] is not None)
        if had:
            most = min(had.items(), key=lambda item: (-item[1], item[0]))[0]
            held.setdefault(int(labels[rows[0]]), set()).add(most)
    if held:
        number = {identity: n + i for i, identity in enumerate(sorted({one for one in before if one is not None}))}
        of_block: dict[int, int] = {}
        for row in np.flatnonzero((anchor < 0) & np.isin(labels, sorted(held))).tolist():
            identity = before[row]
            if identity is not None and identity not in held[int(labels[row])]:
                anchor[row] = of_block.setdefault(int(block[row]), number[identity])
        for row in np.flatnonzero((anchor < 0) & np.isin(labels, sorted(held))).tolist():
            anchor[row] = of_block.get(int(block[row]), -1)
    return anchor


def _divided(vectors: np.ndarray, labels: np.ndarray, anchor: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Groups that hold two anchors or more come apart, one group an anchor."""
    labels = labels.copy()
    pairs = np.unique(np.stack([labels[anchor >= 0], anchor[anchor >= 0]], axis=1), axis=0)
    groups, count = np.unique(pairs[:, 0], return_counts=True)
    fresh = int(labels.max()) + 1
    members = _Members(labels)
    for group in groups[count > 1].tolist():
        rows = members.of(group)
        own = anchor[rows]
        kinds, of = np.unique(own[own >= 0], return_inverse=True)
        total = np.zeros((len(kinds), vectors.shape[1]))
        np.add.at(total, of, vectors[rows[own >= 0]])
        mean = total / np.bincount(of)[:, None]
        place = np.empty(len(rows), np.int64)
        place[own >= 0] = of
        free: dict[int, list[int]] = {}  # block -> positions
        for position in np.flatnonzero(own < 0).tolist():
            free.setdefault(int(block[rows[position]]), []).append(position)
        for positions in free.values():
            place[positions] = int((mean @ vectors[rows[positions]].sum(0)).argmax())
        labels[rows] = fresh + place
        fresh += len(kinds)
    return labels


def _measured(vectors: np.ndarray, found: Grouping, labels: np.ndarray) -> Grouping:
    labels = np.unique(labels, return_inverse=True)[1]
    count, came = np.bincount(labels), _Members(found.labels)
    pairs = np.unique(np.stack([labels, found.labels], axis=1), axis=0)  # today's group, the group it came from
    mixed = np.bincount(pairs[:, 0]) > 1
    broken = np.bincount(pairs[:, 1], minlength=len(came.count)) > 1
    changed = np.flatnonzero(mixed[labels] | broken[found.labels])
    # where one row of a group changed, of today's or of those before, all of its rows did
    changed_groups, of = np.unique(labels[changed], return_inverse=True)
    total = np.zeros((len(changed_groups), vectors.shape[1]))
    np.add.at(total, of, vectors[changed])
    own = count[labels[changed]]
    to_own = np.einsum("nd,nd->n", vectors[changed], total[of]) - 1.0
    confidence, margin = found.confidence.copy(), found.margin.copy()
    confidence[changed] = np.where(own > 1, to_own / np.maximum(own - 1, 1), 1.0)
    nearest = found.confidence - found.margin
    for group in np.unique(found.labels[changed]).tolist():
        rows = came.of(group)
        parts = np.unique(labels[rows])
        cosine = vectors[rows] @ (total[np.searchsorted(changed_groups, parts)] / count[parts, None]).T
        cosine[parts[None, :] == labels[rows][:, None]] = -1.0
        nearest[rows] = np.maximum(nearest[rows], cosine.max(1))
    margin[changed] = (confidence - nearest)[changed]
    return replace(found, labels=labels, confidence=confidence, margin=margin)
