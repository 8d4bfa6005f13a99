"""Adds new faces to a grouping. The other faces are not grouped again.

The groups of the last grouping stay together. New faces are compared with the centres of the groups and with each
other, and merge by the evidence of the last grouping. Two groups of the last grouping become one person only if a new
face gives the evidence. No file with embeddings or neighbours is kept between two groupings, so a purge has nothing to
remove here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from curate.people.clustering.agglomerate import Graph, merge_by_given_odds, renumber_pairs, select_groups
from curate.people.clustering.components import IN_MEMORY, label_components, normalise_rows, sum_rows
from curate.people.clustering.doubtful_people import find_doubtful_groups
from curate.people.clustering.faces_of_one_photo import (
    count_faces_in_photos,
    number_photos,
    separate_faces_of_one_photo,
)
from curate.people.clustering.group_embeddings import COPIES, Grouping
from curate.people.clustering.neighbours import search_rows
from curate.people.clustering.repeated_faces import join_repeated_faces
from curate.people.clustering.threshold import SAMPLE_SIZE, TAIL_FACTOR, Evidence, measure_spread
from curate.people.clustering.weak_faces import WEAK, form_weak_people, join_weak_groups
from manifests.runtime.workspace import Workspace

_NEAREST_GROUPS = 32  # A new face is compared with the 32 groups (ours) that have the nearest centres.

_ROWS_AT_ONCE = 2**14  # Number of rows in one step; limits the memory.


@dataclass(frozen=True)
class EarlierGrouping:
    """The results of the last grouping.

    The arrays have an entry for each of the n faces of today, also for new faces.
    """

    groups: np.ndarray  # The group of each face, int64 (n,), numbered from 0 without gaps; -1 for a new face.
    confidence: np.ndarray  # The confidence of each face (see `Grouping`), float32 (n,); any number for a new face.
    margin: np.ndarray  # The margin of each face (see `Grouping`), float32 (n,); any number for a new face.
    evidence: Evidence
    alpha: float
    threshold: float
    false_match_rate: float
    recall: float
    changed: int  # number of faces that are new or gone since the last grouping of all faces


def extend_grouping(
    embeddings: np.ndarray,
    earlier: EarlierGrouping,
    photo_ids: Sequence[str],
    must_link: Sequence[tuple[int, int]] = (),
    cannot_link: Sequence[tuple[int, int]] = (),
    worth: np.ndarray | None = None,
    is_main: np.ndarray | None = None,
    workspace: Workspace = IN_MEMORY,
) -> Grouping:
    """Returns the grouping of the unit rows of `embeddings`, float32 (n, d), after the new faces joined groups.

    The arguments are those of `group_embeddings`. No link may contradict the groups of `earlier`. If a group does not
    change, the confidence and margin of its faces do not change either. If a group changes, its old faces keep their
    cosine to the nearest other group.

    `group_embeddings` sorts the rows first, and this function does not. So if two groups are equally near, the order of
    the rows decides.
    """
    n = len(embeddings)
    rows = np.arange(n)
    new = np.flatnonzero(earlier.groups < 0)
    photos = number_photos(photo_ids)
    must = np.array(must_link, np.int64).reshape(-1, 2)
    cannot = np.array(cannot_link, np.int64).reshape(-1, 2)
    linked = np.isin(rows, np.concatenate([must.ravel(), cannot.ravel()]))
    is_strong = np.ones(n, bool) if worth is None else (worth >= WEAK) | linked

    # Make the nodes that may merge: the earlier groups, the new faces, and all faces that must-links join. Near-copies
    # among the new faces share one node, which counts as one face (`counts`).
    node = earlier.groups.copy()
    node[new] = node.max(initial=-1) + 1 + np.arange(len(new))
    copies = _find_copies(embeddings, new, photos, is_strong, linked)
    counts = np.ones(n, bool)
    copy = label_components(n, copies)[new]
    counts[new] = False
    counts[new[np.unique(copy, return_index=True)[1]]] = True
    node = label_components(int(node.max()) + 1, np.concatenate([node[must], node[copies]]))[node]
    graph, strong = _make_graph(embeddings, node, is_strong, counts, photos, node[cannot], workspace)

    # Find the groups whose centres are nearest to each new face. (new nodes, k)
    new_nodes = np.unique(node[new])
    centres, mean_cosine = workspace.make_array(graph.sums.shape, np.float32), np.empty(len(graph.sums))
    for begin in range(0, len(centres), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        centres[part] = graph.sums[part]
        # the mean cosine of the faces of each node to the centre of the node
        mean_cosine[part] = np.linalg.norm(graph.sums[part], axis=1) / np.maximum(graph.sizes[part], 1)
        workspace.trim()
    normalise_rows(centres, workspace)
    k = min(_NEAREST_GROUPS + 1, len(centres))
    queries = workspace.read_rows(centres, new_nodes)
    cosines, near = search_rows(queries, centres, np.arange(len(centres)), k, workspace)
    cosines = cosines.round(6)  # the last bits depend on the number of threads
    pairs = np.stack([np.repeat(new_nodes, k), near.ravel()], axis=1)
    graph = Graph(
        sums=graph.sums,
        sizes=graph.sizes,
        pairs=renumber_pairs(lambda: iter([pairs]), np.arange(len(centres), dtype=np.int32), workspace),
        forbidden_pairs=graph.forbidden_pairs,
        photo_counts=graph.photo_counts,
        workspace=workspace,
    )
    del centres

    # Merge the strong nodes, and let the new weak nodes join. The other weak nodes stay as they are. Last, faces that
    # are still alone may form people.
    merged = merge_by_given_odds(select_groups(graph, np.flatnonzero(strong)), earlier.evidence, earlier.alpha)
    is_new_node = np.isin(np.arange(len(strong)), new_nodes)
    joining = np.flatnonzero(strong | is_new_node)
    sample = embeddings[np.unique(np.linspace(0, n - 1, min(SAMPLE_SIZE, n)).astype(np.int64))]
    spread = (measure_spread(sample) or earlier.evidence.spread) / TAIL_FACTOR
    main = np.ones(len(strong), bool) if is_main is None else np.bincount(node, np.asarray(is_main, bool)) > 0
    people = np.empty(len(strong), np.int64)
    people[joining] = join_weak_groups(
        strong[joining], merged, select_groups(graph, joining), spread, None, main[joining]
    )
    rest = np.flatnonzero(~(strong | is_new_node))
    people[rest] = people[joining].max(initial=-1) + 1 + np.arange(len(rest))
    if worth is not None:
        best_worth = np.full(len(strong), -np.inf)
        np.maximum.at(best_worth, node, worth)
        people, _ = form_weak_people(people, best_worth, graph, earlier.evidence)
    labels = people[node]

    # Separate the faces of one photo, and find the photos that show one person twice, as in a full grouping.
    labels = separate_faces_of_one_photo(embeddings, rows, photos, labels, label_components(n, must), workspace)
    labels, repeated = join_repeated_faces(embeddings, rows, photos, labels, linked, earlier.threshold, workspace)
    labels = np.unique(labels, return_inverse=True)[1]
    is_weak_group = np.bincount(labels, is_strong) == 0
    doubtful = find_doubtful_groups(
        embeddings, rows, labels, is_strong & counts, is_weak_group[labels] & counts, earlier.evidence.spread, workspace
    )[labels]
    doubtful &= ~np.isin(labels, labels[must])

    confidence = _measure_confidence(embeddings, labels, earlier, workspace)
    margin = earlier.margin + confidence - earlier.confidence
    place = np.searchsorted(new_nodes, node[new])
    other = people[near[place]] != people[node[new]][:, None]
    nearest = np.where(other, cosines[place] * mean_cosine[near[place]], -1.0).max(axis=1)
    margin[new] = confidence[new] - nearest
    return Grouping(
        labels=labels,
        confidence=confidence,
        margin=margin.astype(np.float32),
        threshold=earlier.threshold,
        false_match_rate=earlier.false_match_rate,
        recall=earlier.recall,
        doubtful=doubtful,
        repeated=repeated,
        evidence=earlier.evidence,
        alpha=earlier.alpha,
    )


def _find_copies(
    embeddings: np.ndarray, new: np.ndarray, photos: np.ndarray, is_strong: np.ndarray, linked: np.ndarray
) -> np.ndarray:
    """Returns the pairs of near-copies among the rows `new`, int64 (m, 2)."""
    vectors = np.ascontiguousarray(embeddings[new])
    if len(new) < 2:
        return np.zeros((0, 2), np.int64)
    cosines, near = faiss.knn(vectors, vectors, min(_NEAREST_GROUPS, len(new)), faiss.METRIC_INNER_PRODUCT)
    row, column = np.nonzero(cosines.round(6) >= COPIES)
    pairs = np.stack([new[row], new[near[row, column]]], axis=1)
    differ = photos[pairs[:, 0]] != photos[pairs[:, 1]]
    return pairs[differ & is_strong[pairs].any(axis=1) & ~linked[pairs].any(axis=1)]


def _make_graph(
    embeddings: np.ndarray,
    node: np.ndarray,
    is_strong: np.ndarray,
    counts: np.ndarray,
    photos: np.ndarray,
    forbidden_pairs: np.ndarray,
    workspace: Workspace,
) -> tuple[Graph, np.ndarray]:
    """Returns a graph of the nodes, still without pairs, and whether each node has a strong face, bool (nodes,).

    The sums and sizes of a strong node contain only its strong faces, because weak faces do not change a centre.
    """
    strong = np.bincount(node, is_strong) > 0
    rows = np.flatnonzero((is_strong | ~strong[node]) & counts)
    used = np.bincount(node[rows], minlength=len(strong)) > 0
    rows = np.sort(np.concatenate([rows, np.flatnonzero(~used[node])]))  # a node has at least one row
    sizes = np.bincount(node[rows], minlength=len(strong))
    photo_counts = count_faces_in_photos(photos, node)
    sums = sum_rows(embeddings, rows, node[rows], workspace)
    return Graph(sums, sizes, np.zeros((0, 2), np.int32), forbidden_pairs, photo_counts), strong


def _measure_confidence(
    embeddings: np.ndarray, labels: np.ndarray, earlier: EarlierGrouping, workspace: Workspace
) -> np.ndarray:
    """Returns the mean cosine of each face to the other faces of its group, float32 (n,).

    The groups that have the same faces as in the earlier grouping are not measured again.
    """
    groups, count = earlier.groups, np.bincount(labels)
    first, last = np.full(len(count), np.iinfo(np.int64).max), np.full(len(count), -1)
    np.minimum.at(first, labels, groups)
    np.maximum.at(last, labels, groups)
    size_before = np.bincount(groups[groups >= 0], minlength=1)
    changed = (first != last) | (first < 0) | (size_before[np.maximum(first, 0)] != count)
    rows = np.flatnonzero(changed[labels])
    confidence = earlier.confidence.astype(np.float32)
    if len(rows):
        label = np.unique(labels[rows], return_inverse=True)[1]
        total, own = sum_rows(embeddings, rows, label, workspace), np.bincount(label)[label]
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(begin, begin + _ROWS_AT_ONCE)
            vectors = workspace.read_rows(embeddings, rows[part])
            to_own = np.einsum("nd,nd->n", vectors, workspace.read_rows(total, label[part])) - 1
            confidence[rows[part]] = np.where(own[part] > 1, to_own / np.maximum(own[part] - 1, 1), 1.0)
    return confidence
