"""Embeddings -> people: a faiss neighbour graph, its connected components, and average linkage inside each.

An honest first version. Two groups become one person while the mean cosine over all their pairs of faces stays above
`same_person`; a pair that shares a photo counts as -1, the least a cosine can be. Where two faces of one photo still
meet in one group, the one less like the group stands alone, with the faces it was said to belong with. Usable without
the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from manifests.errors import BadInput

# average linkage holds a dense matrix a component; a larger component is first cut at stricter edges
# (ours: 576 MB are held, 768 MB at the most)
MAX_COMPONENT = 8000


@dataclass(frozen=True)
class Grouping:
    """Who is who among n faces."""

    labels: np.ndarray  # int64 (n,): faces of one person share a label; a face that stands alone has one of its own
    confidence: np.ndarray  # float32 (n,): mean cosine to the group's other faces; 1 where there is none
    margin: np.ndarray  # float32 (n,): confidence minus the mean cosine to the nearest other group among the neighbours
    threshold: float  # the mean cosine that was asked for
    # share of same-photo pairs above it: strangers by definition; None without such pairs
    false_match_rate: float | None


def group(
    embeddings: np.ndarray,
    photo_ids: Sequence[str] | None = None,
    must_link: Sequence[tuple[int, int]] = (),
    cannot_link: Sequence[tuple[int, int]] = (),
    same_person: float = 0.30,
    neighbours: int = 64,
) -> Grouping:
    """Group unit rows, float32 (n, d).

    Faces with the same entry in `photo_ids` are never one person unless `must_link` says so, directly or through
    others; leave it out to allow that. `must_link` and `cannot_link` hold pairs of row numbers and win over similarity.
    The order of the rows does not change who is grouped with whom. Raises BadInput for links that contradict each
    other, for a link to a row that is not there, and for rows that are not finite or not of length 1.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    n = len(embeddings)
    if n == 0:
        return Grouping(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32), same_person, None)
    if not np.isfinite(embeddings).all() or np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() > 1e-3:
        raise BadInput("Embeddings must be finite rows of length 1: normalise them, and leave out faces without one.")
    _refuse_contradictions(n, must_link, cannot_link)
    photos = None if photo_ids is None else np.unique(np.asarray(photo_ids, str), return_inverse=True)[1]
    order = _canonical(embeddings, photos)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    vectors = embeddings[order]
    photos = None if photos is None else photos[order]
    apart = {(int(min(rank[a], rank[b])), int(max(rank[a], rank[b]))) for a, b in cannot_link}
    together = {(int(min(rank[a], rank[b])), int(max(rank[a], rank[b]))) for a, b in must_link}

    near, likeness = _neighbours(vectors, min(neighbours, n - 1))
    edges = _edges(near, likeness, same_person)
    if together:
        edges = np.concatenate([edges, np.array(sorted(together))])
    labels = np.full(n, -1, np.int64)
    todo, next_label = _components(n, edges), 0
    for members in todo:
        for part in _small_enough(members, near, likeness, same_person, together):
            own_photos = None if photos is None else photos[part]
            local = _average_linkage(
                vectors[part], own_photos, _local(together, part), _local(apart, part), same_person
            )
            if own_photos is not None:
                local = _one_a_photo(vectors[part], own_photos, local, _local(together, part))
            labels[part] = local + next_label
            next_label += int(local.max()) + 1
    labels = np.unique(labels, return_inverse=True)[1]
    confidence, margin = _certainty(vectors, labels, near)
    return Grouping(
        labels=labels[rank],
        confidence=confidence[rank],
        margin=margin[rank],
        threshold=same_person,
        false_match_rate=None if photos is None else _same_photo_matches(vectors, photos, same_person),
    )


def _refuse_contradictions(
    n: int, must_link: Sequence[tuple[int, int]], cannot_link: Sequence[tuple[int, int]]
) -> None:
    if outside := [row for pair in (*must_link, *cannot_link) for row in pair if not 0 <= row < n]:
        raise BadInput(f"A link names face {outside[0]}, and there are {n} faces, counted from 0.")
    block = _blocks(n, must_link)
    for a, b in cannot_link:
        if block[a] == block[b]:
            raise BadInput(f"Faces {a} and {b} are said to be one person and two: take one of the decisions back.")


def _blocks(n: int, together: Sequence[tuple[int, int]]) -> np.ndarray:
    """Labels (n,): rows that were said to be one person, directly or through others, share one."""
    pairs = np.array(together, np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])


def _canonical(embeddings: np.ndarray, photos: np.ndarray | None) -> np.ndarray:
    """An order of the rows that depends on what they hold alone, so that ties always fall the same way."""
    rows = np.ascontiguousarray(embeddings + 0.0)  # -0 becomes 0: equal rows must be equal bytes
    held = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, same = np.unique(held, return_inverse=True)
    return np.lexsort((np.zeros(len(rows)) if photos is None else photos, same))


def _neighbours(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and cosines (n, k) of the k nearest other rows, exact."""
    n, d = vectors.shape
    if k <= 0:
        return np.zeros((n, 0), np.int64), np.zeros((n, 0), np.float32)
    index = faiss.IndexFlatIP(d)
    index.add(vectors)
    likeness, near = index.search(vectors, k + 1)
    own = near == np.arange(n)[:, None]
    own[~own.any(1), -1] = True  # among many identical rows a row may not be its own neighbour
    return near[~own].reshape(n, k), likeness[~own].reshape(n, k)


def _edges(near: np.ndarray, likeness: np.ndarray, at_least: float) -> np.ndarray:
    row, column = np.nonzero(likeness >= at_least)
    return np.stack([row, near[row, column]], axis=1)


def _components(n: int, edges: np.ndarray) -> list[np.ndarray]:
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _small_enough(
    members: np.ndarray, near: np.ndarray, likeness: np.ndarray, at_least: float, together: set[tuple[int, int]]
) -> list[np.ndarray]:
    """A component as it is, or cut at ever stricter edges until its parts fit into memory."""
    if len(members) <= MAX_COMPONENT or at_least >= 1:
        return [members]
    stricter = at_least + 0.02
    position = np.full(len(near), -1)
    position[members] = np.arange(len(members))
    row, column = np.nonzero(likeness[members] >= stricter)
    edges = np.stack([row, position[near[members][row, column]]], axis=1)
    edges = np.concatenate([edges[edges[:, 1] >= 0], np.array(_local(together, members), np.int64).reshape(-1, 2)])
    parts = _components(len(members), edges)
    return [piece for part in parts for piece in _small_enough(members[part], near, likeness, stricter, together)]


def _local(pairs: set[tuple[int, int]], part: np.ndarray) -> list[tuple[int, int]]:
    position = {int(member): i for i, member in enumerate(part)}
    return sorted((position[a], position[b]) for a, b in pairs if a in position and b in position)


def _average_linkage(
    vectors: np.ndarray,
    photos: np.ndarray | None,
    together: Sequence[tuple[int, int]],
    apart: Sequence[tuple[int, int]],
    at_least: float,
) -> np.ndarray:
    """Labels 0.. of one component: merge the two groups most alike on average until none are `at_least` alike."""
    m = len(vectors)
    total = (vectors @ vectors.T).astype(np.float64)  # summed cosines between groups
    forbidden = np.eye(m, dtype=bool)
    if photos is not None:
        total[(photos[:, None] == photos[None, :]) & ~forbidden] = -1.0
    for a, b in apart:
        forbidden[a, b] = forbidden[b, a] = True
    size, label, alive = np.ones(m), np.arange(m), np.ones(m, bool)

    def merge(i: int, j: int) -> None:
        total[i] += total[j]
        total[:, i] += total[:, j]
        forbidden[i] |= forbidden[j]
        forbidden[:, i] |= forbidden[:, j]
        forbidden[i, i] = True
        size[i] += size[j]
        alive[j] = False
        label[label == j] = i

    for a, b in together:
        i, j = sorted((int(label[a]), int(label[b])))
        if i != j:
            merge(i, j)

    def best_of(i: int) -> tuple[float, int]:
        mean = np.where(alive & ~forbidden[i], total[i] / (size[i] * size), -np.inf)
        j = int(mean.argmax())
        return float(mean[j]), j

    best = np.full(m, -np.inf)
    partner = np.zeros(m, np.int64)
    for i in range(m):
        if alive[i]:
            best[i], partner[i] = best_of(i)
    while True:
        top = int(best.argmax())
        if best[top] < at_least:
            break
        i, j = sorted((top, int(partner[top])))
        merge(i, j)
        best[j] = -np.inf
        for row in np.flatnonzero(alive & ((partner == i) | (partner == j))):
            best[row], partner[row] = best_of(int(row))
        best[i], partner[i] = best_of(i)
        # a group may now be nearer to the merged one than to its own best
        mean = np.where(alive & ~forbidden[i], total[i] / (size[i] * size), -np.inf)
        better = mean > best
        best[better], partner[better] = mean[better], i
    return np.unique(label, return_inverse=True)[1]


def _one_a_photo(
    vectors: np.ndarray, photos: np.ndarray, label: np.ndarray, together: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Of several faces of one photo in one group, all but the one most like the group leave it.

    Faces that were said to be one person form a block, which stays or leaves as a whole; larger blocks stay first.
    """
    label, block = label.copy(), _blocks(len(label), together)
    total = np.zeros((int(label.max()) + 1, vectors.shape[1]))
    np.add.at(total, label, vectors)
    fit = np.einsum("nd,nd->n", vectors, total[label])
    size, best = np.bincount(block), np.full(int(block.max()) + 1, -np.inf)
    np.maximum.at(best, block, fit)
    rows_of: dict[int, list[int]] = {}
    for row, member in enumerate(block.tolist()):
        rows_of.setdefault(member, []).append(row)
    taken: set[tuple[int, int]] = set()  # (group, photo)
    fresh = int(label.max()) + 1
    for member in sorted(rows_of, key=lambda member: (-size[member], -best[member], rows_of[member][0])):
        wanted = {(int(label[row]), int(photos[row])) for row in rows_of[member]}
        if wanted & taken:
            label[rows_of[member]], fresh = fresh, fresh + 1
        else:
            taken |= wanted
    return np.unique(label, return_inverse=True)[1]


def _certainty(vectors: np.ndarray, labels: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and margin, float32 (n,)."""
    n, groups = len(vectors), int(labels.max()) + 1
    total = np.zeros((groups, vectors.shape[1]))
    np.add.at(total, labels, vectors)
    count = np.bincount(labels, minlength=groups)
    own = count[labels]
    to_own = np.einsum("nd,nd->n", vectors, total[labels]) - 1.0
    confidence = np.where(own > 1, to_own / np.maximum(own - 1, 1), 1.0)
    centre = total / count[:, None]
    nearest = np.full(n, -1.0)
    for column in range(near.shape[1]):
        other = labels[near[:, column]]
        cosine = np.einsum("nd,nd->n", vectors, centre[other])
        nearest = np.where(other != labels, np.maximum(nearest, cosine), nearest)
    margin = np.where(near.shape[1] > 0, confidence - nearest, 2.0)
    return confidence.astype(np.float32), margin.astype(np.float32)


def _same_photo_matches(vectors: np.ndarray, photos: np.ndarray, at_least: float) -> float | None:
    order = np.argsort(photos, kind="stable")
    above = pairs = 0
    for members in np.split(order, np.flatnonzero(np.diff(photos[order])) + 1):
        if len(members) > 1:
            upper = np.triu_indices(len(members), 1)
            above += int(((vectors[members] @ vectors[members].T)[upper] >= at_least).sum())
            pairs += len(upper[0])
    return above / pairs if pairs else None


def histogram(embeddings: np.ndarray, labels: np.ndarray, bins: int = 100, most: int = 3000) -> dict[str, list[float]]:
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
