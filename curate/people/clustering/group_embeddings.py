"""Embeddings -> people: near-copies, a neighbour graph, merging by calibrated odds. Usable without the ledger.

The threshold is found without labels: strangers' cosines are read off the negative ones, and how much evidence two
faces need follows from how many people the collection turns out to hold (evidence.py). Groups merge by the cosine of
their centres, so one weak face never holds two people together (agglomerate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from curate.people.clustering.agglomerate import Graph, agglomerate, merge_by_mean_cosine
from curate.people.clustering.evidence import SAMPLE, WITHIN, Evidence, measure_spread, usual_spread
from curate.people.clustering.neighbours import EXACT, Neighbours, find_neighbours
from manifests.errors import BadInput

# faces at least this alike are one picture again or frames of one burst: they count as one face
# (ours). With `same_person`, 19 twentieths of the way from it to 1 take its place.
COPIES = 0.95
# faces less alike than this many spreads, or than `same_person` less this much, are not compared, unless through other
# faces of their groups
_LEAST_SPREADS, _BELOW_MEAN = 1.5, 0.15
# faces of other groups, the nearest first, whose groups a margin is measured against; other groups likewise, for groups
# whose faces have only each other for neighbours
_RIVALS = 4
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Grouping:
    """Who is who among n faces."""

    labels: np.ndarray  # int64 (n,): faces of one person share a label; a face that stands alone has one of its own
    confidence: np.ndarray  # float32 (n,): mean cosine to the group's other faces; 1 where there is none
    margin: np.ndarray  # float32 (n,): confidence minus the mean cosine to the nearest other group among the neighbours
    threshold: float  # the cosine from which two lone faces are one person, as found, or `same_person`
    # the estimated share of pairs of strangers' faces that are at least this alike, from the calibrated spread; where
    # that cannot be measured (dlib), of pairs of different groups
    false_match_rate: float
    recall: float = 1.0  # share of true near neighbours that the search found; 1 where it was exact


def group_embeddings(
    embeddings: np.ndarray,
    photo_ids: Sequence[str] | None = None,
    must_link: Sequence[tuple[int, int]] = (),
    cannot_link: Sequence[tuple[int, int]] = (),
    same_person: float | None = None,
    neighbours: int = 64,
    exact: int = EXACT,
) -> Grouping:
    """Group unit rows, float32 (n, d).

    Faces with the same entry in `photo_ids` are never one person unless `must_link` says so, directly or through
    others; leave it out to allow that. `must_link` and `cannot_link` hold pairs of row numbers and win over similarity.
    With `same_person` nothing is calibrated: two groups are one person where the mean cosine across them reaches it
    (for recognizers whose strangers' cosines do not lie around 0, as dlib's). Each face is compared with its nearest
    `neighbours`, exactly up to `exact` faces. The order of the rows does not change who is grouped with whom, but for
    equal rows, which are interchangeable. Raises BadInput for links that contradict each other, for a link to a row
    that is not there, for rows that are not finite or not of length 1, and for other arguments that mean nothing.
    """
    embeddings = _rows(embeddings)
    n = len(embeddings)
    _check(embeddings, photo_ids, must_link, cannot_link, same_person, neighbours)
    if n == 0:
        none = np.zeros(0, np.float32)
        return Grouping(np.zeros(0, np.int64), none, none, 1.0 if same_person is None else same_person, 0.0)
    photos = None if photo_ids is None else np.unique(np.asarray(photo_ids, str), return_inverse=True)[1]
    order = _canonical(embeddings, photos)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    photos = None if photos is None else photos[order]
    together = rank[np.array(must_link, np.int64).reshape(-1, 2)]
    apart = rank[np.array(cannot_link, np.int64).reshape(-1, 2)]

    sample = order[np.unique(np.linspace(0, n - 1, min(SAMPLE, n)).astype(np.int64))]
    measured = measure_spread(embeddings[sample])
    spread = measured or usual_spread(embeddings.shape[1])
    least = _LEAST_SPREADS * spread if same_person is None else same_person - _BELOW_MEAN
    near = find_neighbours(embeddings, order, neighbours, 4 * spread if same_person is None else same_person, exact)
    block = _blocks(n, together)
    copies = _pairs(near, COPIES if same_person is None else same_person + COPIES * (1 - same_person))
    copies = copies[~np.isin(block[copies], block[apart]).any(1)]  # decided faces are not taken for their copies
    if photos is not None:
        copies = copies[photos[copies[:, 0]] != photos[copies[:, 1]]]
    face = _blocks(n, copies)  # near-copies count as one face, at their mean
    sums = _summed(embeddings, order, face)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    start = _blocks(len(sums), face[together])
    size = np.bincount(start)
    if len(size) < len(sums):
        sums = _summed(sums, np.arange(len(sums)), start)
    start = start[face]
    graph = Graph(
        sums=sums,
        size=size,
        pairs=start[_pairs(near, least)].astype(np.int32),
        apart=start[apart],
        shown=_shown(photos, start),
    )
    if same_person is None:
        merged = agglomerate(graph, spread)
        labels, threshold = merged.label[start], merged.evidence.threshold(merged.alpha)
        false_matches = merged.evidence.false_match_rate(threshold)
    else:
        labels, threshold = merge_by_mean_cosine(graph, same_person)[start], same_person
        if measured is None:
            false_matches = _strangers_above(embeddings[sample], labels[rank[sample]], same_person)
        else:
            false_matches = Evidence(measured, WITHIN).false_match_rate(same_person)
    if photos is not None:
        labels = _one_a_photo(embeddings, order, photos, labels, block)
    labels = np.unique(labels, return_inverse=True)[1]
    confidence, margin = _certainty(embeddings, order, labels, near)
    return Grouping(
        labels=labels[rank],
        confidence=confidence[rank],
        margin=margin[rank],
        threshold=threshold,
        false_match_rate=false_matches,
        recall=near.recall,
    )


def _rows(embeddings: np.ndarray) -> np.ndarray:
    try:
        rows = np.ascontiguousarray(embeddings, np.float32)
    except (TypeError, ValueError):
        raise BadInput("Embeddings must be numbers, rows of one length: (n, d).") from None
    if rows.ndim != 2:
        raise BadInput(f"Embeddings must be rows (n, d), not of shape {rows.shape}.")
    return rows


def _check(
    embeddings: np.ndarray,
    photo_ids: Sequence[str] | None,
    must_link: Sequence[tuple[int, int]],
    cannot_link: Sequence[tuple[int, int]],
    same_person: float | None,
    neighbours: int,
) -> None:
    n = len(embeddings)
    if photo_ids is not None and len(photo_ids) != n:
        raise BadInput(f"There are {n} embeddings and {len(photo_ids)} photo_ids: say one for each.")
    if photo_ids is not None and any(one is None for one in photo_ids):
        raise BadInput("photo_ids holds None: give every face its photo, or leave photo_ids out.")
    if neighbours < 1:
        raise BadInput(f"neighbours {neighbours}: a face must be compared with at least 1.")
    for begin in range(0, n, _ROWS_AT_ONCE):
        length = np.linalg.norm(embeddings[begin : begin + _ROWS_AT_ONCE], axis=1)
        if not np.abs(length - 1).max() < 1e-3:  # NaN is not below either
            raise BadInput(
                "Embeddings must be finite rows of length 1: normalise them, and leave out faces without one."
            )
    if same_person is not None and not -1 <= same_person <= 1:
        raise BadInput(f"same_person {same_person} is no cosine: say a number from -1 to 1, or leave it out.")
    if outside := [row for pair in (*must_link, *cannot_link) for row in pair if not 0 <= row < n]:
        raise BadInput(f"A link names face {outside[0]}, and there are {n} faces, counted from 0.")
    block = _blocks(n, np.array(must_link, np.int64).reshape(-1, 2))
    for a, b in cannot_link:
        if block[a] == block[b]:
            raise BadInput(f"Faces {a} and {b} are said to be one person and two: take one of the decisions back.")


def _canonical(embeddings: np.ndarray, photos: np.ndarray | None) -> np.ndarray:
    """An order of the rows that depends on what they hold alone, so that ties always fall the same way."""
    n, d = embeddings.shape
    weights = np.random.default_rng(0).integers(0, 2**63, d, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    key = np.empty(n, np.uint64)
    for begin in range(0, n, _ROWS_AT_ONCE):
        rows = embeddings[begin : begin + _ROWS_AT_ONCE] + np.float32(0)  # -0 becomes 0: equal rows, equal bytes
        key[begin : begin + len(rows)] = rows.view(np.uint32).astype(np.uint64) @ weights
    return np.lexsort((np.zeros(n) if photos is None else photos, key))


def _strangers_above(vectors: np.ndarray, labels: np.ndarray, cosine: float) -> float:
    """The share of pairs of different groups that are at least this alike."""
    upper = np.triu_indices(len(vectors), 1)
    apart = (labels[:, None] != labels[None, :])[upper]
    return float(((vectors @ vectors.T)[upper][apart] >= cosine).mean()) if apart.any() else 0.0


def _pairs(near: Neighbours, at_least: float) -> np.ndarray:
    """Pairs of rows int64 (m, 2) whose cosine is at least this."""
    row, column = np.nonzero((near.cosine >= at_least) & (near.row >= 0))
    return np.stack([row, near.row[row, column]], axis=1)


def _blocks(n: int, together: np.ndarray) -> np.ndarray:
    """Labels (n,): rows that pairs (m, 2) join, directly or through others, share one."""
    graph = coo_matrix((np.ones(len(together), bool), (together[:, 0], together[:, 1])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1]).astype(np.int64)


def _summed(vectors: np.ndarray, order: np.ndarray, label: np.ndarray) -> np.ndarray:
    """float32 (labels, d): the sum of the rows of each label; `label` counts in `order`."""
    total = np.zeros((int(label.max()) + 1, vectors.shape[1]), np.float32)
    by_label = np.argsort(label, kind="stable")
    for begin in range(0, len(label), _ROWS_AT_ONCE):
        part = by_label[begin : begin + _ROWS_AT_ONCE]
        first = np.flatnonzero(np.concatenate([[True], np.diff(label[part]) > 0]))
        total[label[part[first]]] += np.add.reduceat(vectors[order[part]], first, axis=0)
    return total


def _shown(photos: np.ndarray | None, label: np.ndarray) -> csr_matrix | None:
    """How many faces of each group each photo shows, over photos of several faces."""
    if photos is None:
        return None
    several = np.flatnonzero(np.bincount(photos)[photos] > 1)
    if len(several) == 0:
        return None
    column = np.unique(photos[several], return_inverse=True)[1]
    shape = (int(label.max()) + 1, int(column.max()) + 1)
    return csr_matrix((np.ones(len(several), np.float32), (label[several], column)), shape=shape)


def _one_a_photo(
    embeddings: np.ndarray, order: np.ndarray, photos: np.ndarray, label: np.ndarray, block: np.ndarray
) -> np.ndarray:
    """Of several faces of one photo in one group, all but the one most like the group leave it.

    Faces that were said to be one person form a block, which stays or leaves as a whole; larger blocks stay first.
    """
    by_place = np.lexsort((photos, label))
    again = (np.diff(label[by_place]) == 0) & (np.diff(photos[by_place]) == 0)
    crowded = np.unique(label[by_place[1:][again]])
    if len(crowded) == 0:
        return label
    label = label.copy()
    rows = np.flatnonzero(np.isin(label, crowded))
    place = np.searchsorted(crowded, label[rows])
    vectors = embeddings[order[rows]]
    fit = np.einsum("nd,nd->n", vectors, _summed(vectors, np.arange(len(rows)), place)[place])
    rows_of: dict[int, list[int]] = {}
    best: dict[int, float] = {}
    for row, member, how_well in zip(rows.tolist(), block[rows].tolist(), fit.tolist(), strict=True):
        rows_of.setdefault(member, []).append(row)
        best[member] = max(best.get(member, -np.inf), how_well)
    taken: set[tuple[int, int]] = set()  # (group, photo)
    fresh = int(label.max()) + 1
    for member in sorted(rows_of, key=lambda member: (-len(rows_of[member]), -best[member], rows_of[member][0])):
        wanted = {(int(label[row]), int(photos[row])) for row in rows_of[member]}
        if wanted & taken:
            label[rows_of[member]], fresh = fresh, fresh + 1
        else:
            taken |= wanted
    return label


def _certainty(
    embeddings: np.ndarray, order: np.ndarray, labels: np.ndarray, near: Neighbours
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and margin, float32 (n,), of rows in `order`."""
    n = len(labels)
    total, count = _summed(embeddings, order, labels), np.bincount(labels)
    rivals = _rival_groups(total, count, labels, near)
    confidence, margin = np.ones(n, np.float32), np.full(n, 2.0, np.float32)
    for begin in range(0, n, _ROWS_AT_ONCE):
        rows = slice(begin, min(begin + _ROWS_AT_ONCE, n))
        vectors, label = embeddings[order[rows]], labels[rows]
        own = count[label]
        to_own = np.einsum("nd,nd->n", vectors, total[label]) - 1.0
        confidence[rows] = np.where(own > 1, to_own / np.maximum(own - 1, 1), 1.0)
        if near.row.shape[1] == 0:
            continue
        others = np.where(near.row[rows] >= 0, labels[near.row[rows]], label[:, None])
        stranger = others != label[:, None]
        nearest = np.full(len(label), -1.0)
        for column in np.argsort(~stranger, axis=1, kind="stable")[:, :_RIVALS].T:
            other = others[np.arange(len(label)), column]
            cosine = np.einsum("nd,nd->n", vectors, total[other]) / count[other]
            nearest = np.where(other != label, np.maximum(nearest, cosine), nearest)
        lonely = np.flatnonzero(~stranger.any(1))
        for column in range(rivals.shape[1]):
            other = rivals[label[lonely], column]
            there = other >= 0
            rows_there, other = lonely[there], other[there]
            cosine = np.einsum("nd,nd->n", vectors[rows_there], total[other]) / count[other]
            nearest[rows_there] = np.maximum(nearest[rows_there], cosine)
        margin[rows] = confidence[rows] - nearest
    return confidence, margin


def _rival_groups(total: np.ndarray, count: np.ndarray, labels: np.ndarray, near: Neighbours) -> np.ndarray:
    """int64 (groups, _RIVALS): the groups whose centres are nearest to a group's, where a face of it sees no stranger.

    -1 fills the rest: groups whose faces all have a stranger among their neighbours need no rivals.
    """
    groups = len(count)
    own = np.ones(len(labels), bool)
    for begin in range(0, len(labels), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        others = np.where(near.row[rows] >= 0, labels[near.row[rows]], labels[rows][:, None])
        own[rows] = (others == labels[rows][:, None]).all(1)
    found = np.full((groups, _RIVALS), -1)
    wanted = np.unique(labels[own]) if near.row.shape[1] else np.zeros(0, np.int64)
    if len(wanted) == 0 or groups == 1:
        return found
    centres = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    most = min(_RIVALS + 1, groups)
    _, nearest = faiss.knn(centres[wanted], centres, most, metric=faiss.METRIC_INNER_PRODUCT)
    for group_number, row in zip(wanted, nearest, strict=True):
        others = row[row != group_number][:_RIVALS]
        found[group_number, : len(others)] = others
    return found


def count_cosines(
    embeddings: np.ndarray, labels: np.ndarray, bins: int = 100, most: int = 3000
) -> dict[str, list[float]]:
    """Counts of cosines within and between people over evenly spaced faces (at most `most`), edges from -1 to 1."""
    keep = np.unique(np.linspace(0, max(len(embeddings) - 1, 0), min(most, len(embeddings))).astype(int))
    vectors, label = embeddings[keep], labels[keep]
    edges = np.linspace(-1, 1, bins + 1)
    upper = np.triu_indices(len(vectors), 1)
    cosine, same = (vectors @ vectors.T)[upper], (label[:, None] == label[None, :])[upper]
    return {
        "edges": edges.round(4).tolist(),
        "within": np.histogram(cosine[same], edges)[0].tolist(),
        "between": np.histogram(cosine[~same], edges)[0].tolist(),
    }
