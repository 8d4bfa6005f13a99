"""Groups face embeddings into people.

The first step finds the nearest neighbours of every face. The second step joins near-copies of a face into one face.
The third step merges groups of faces by the log odds that two groups show one person. The threshold is calibrated
without labels (threshold.py). The negative cosines show the spread of the cosines between strangers. The number of
people determines how much evidence two faces need. Groups merge by the cosine of their centres, so one poor face cannot
join two people (agglomerate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from curate.people.clustering.agglomerate import Graph, merge_by_mean_cosine, merge_by_odds
from curate.people.clustering.components import label_components, sum_rows
from curate.people.clustering.confidence import measure_confidence
from curate.people.clustering.neighbours import EXACT, Neighbours, find_neighbours
from curate.people.clustering.threshold import MEAN_WITHIN, SAMPLE_SIZE, Evidence, estimate_spread, measure_spread
from manifests.errors import BadInput

# Two faces with a cosine of COPIES or more count as one face (ours). Faces that are so similar show the same picture,
# or frames of one burst. If `same_person` is given, the limit is same_person + COPIES (1 - same_person).
COPIES = 0.95
# Two faces are compared only if their cosine reaches a minimum. The minimum cosine is _MIN_SPREADS times the spread of
# the cosines between strangers. If `same_person` is given, the minimum cosine is `same_person` minus
# _BELOW_SAME_PERSON. The groups of two faces that are not compared may still merge through other faces.
_MIN_SPREADS, _BELOW_SAME_PERSON = 1.5, 0.15
_ROWS_AT_ONCE = 2**16  # number of rows in one step; limits the memory


@dataclass(frozen=True)
class Grouping:
    """The group of each of n faces, with measures of certainty."""

    # int64 (n,): faces of one person have the same label; a face that is alone in its group has its own label
    labels: np.ndarray
    confidence: np.ndarray  # float32 (n,): mean cosine to the other faces of the group; 1 for a face that is alone
    margin: np.ndarray  # float32 (n,): confidence minus the mean cosine to the nearest other group
    threshold: float  # lowest cosine that makes two single faces one person; calibrated or `same_person`
    # The estimated share of pairs of strangers' faces that have a cosine of `threshold` or more. The estimated share of
    # stranger pairs uses the calibrated spread. If the spread cannot be measured, as for dlib, pairs of faces in
    # different groups are counted instead.
    false_match_rate: float
    recall: float = 1.0  # share of the true near neighbours that the search found; 1 for an exact search


def group_embeddings(
    embeddings: np.ndarray,
    photo_ids: Sequence[str] | None = None,
    must_link: Sequence[tuple[int, int]] = (),
    cannot_link: Sequence[tuple[int, int]] = (),
    same_person: float | None = None,
    neighbours: int = 64,
    exact: int = EXACT,
) -> Grouping:
    """Groups the unit rows of `embeddings`, float32 (n, d).

    `photo_ids` (n,) names the photo of each face. Two faces of one photo are never one person, unless `must_link` joins
    them directly or through other faces. Without `photo_ids`, a person may appear twice in a photo. `must_link` and
    `cannot_link` are pairs of row numbers. Links override the similarity of faces.

    If `same_person` is given, no threshold is calibrated, and two groups merge if the mean cosine between their faces
    is `same_person` or more. Give `same_person` for a recognizer whose cosines between strangers are not spread around
    0, for example dlib.

    Each face is compared with its `neighbours` nearest faces. The search is exact for up to `exact` faces. The groups
    do not depend on the order of the rows. Rows with equal embeddings may exchange their results.

    Raises BadInput if links contradict each other or name a row that does not exist. Raises BadInput if a row is not
    finite, if the length of a row is not 1, or if another argument is out of range.
    """
    embeddings = _check_embeddings(embeddings)
    n = len(embeddings)
    _check_arguments(embeddings, photo_ids, must_link, cannot_link, same_person, neighbours)
    if n == 0:
        empty = np.zeros(0, np.float32)
        return Grouping(np.zeros(0, np.int64), empty, empty, 1.0 if same_person is None else same_person, 0.0)

    # From here on, row numbers follow an order that depends only on the values of the rows. Photos and links use the
    # same row numbers.
    photos = None if photo_ids is None else np.unique(np.asarray(photo_ids, str), return_inverse=True)[1]
    order = _sort_rows(embeddings, photos)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    photos = None if photos is None else photos[order]
    must = rank[np.array(must_link, np.int64).reshape(-1, 2)]
    cannot = rank[np.array(cannot_link, np.int64).reshape(-1, 2)]

    # Measure the spread of the cosines between strangers on an evenly spaced sample. Find the nearest neighbours of
    # every face.
    sample = order[np.unique(np.linspace(0, n - 1, min(SAMPLE_SIZE, n)).astype(np.int64))]
    measured_spread = measure_spread(embeddings[sample])
    spread = measured_spread or estimate_spread(embeddings.shape[1])
    min_cosine = _MIN_SPREADS * spread if same_person is None else same_person - _BELOW_SAME_PERSON
    near = find_neighbours(embeddings, order, neighbours, 4 * spread if same_person is None else same_person, exact)

    # Find the pairs of near-copies, int64 (m, 2), and join each set of copies into one face. The vector of a joined
    # face is the normalised mean of its copies, float32 (faces, d). Two faces of one photo are not copies of each
    # other. A face that a cannot-link names is never joined as a copy.
    block = label_components(n, must)
    copies = _select_pairs(near, COPIES if same_person is None else same_person + COPIES * (1 - same_person))
    copies = copies[~np.isin(block[copies], block[cannot]).any(1)]
    if photos is not None:
        copies = copies[photos[copies[:, 0]] != photos[copies[:, 1]]]
    face = label_components(n, copies)
    sums = sum_rows(embeddings, order, face)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)

    # Make the first groups. A group is a single face, or all faces that must-links join.
    start = label_components(len(sums), face[must])
    sizes = np.bincount(start)
    if len(sizes) < len(sums):
        sums = sum_rows(sums, np.arange(len(sums)), start)
    start = start[face]
    graph = Graph(
        sums=sums,
        sizes=sizes,
        pairs=start[_select_pairs(near, min_cosine)].astype(np.int32),
        forbidden_pairs=start[cannot],
        photo_counts=_count_faces_in_photos(photos, start),
    )

    # Merge the groups. Estimate the share of pairs of strangers that reach the threshold.
    if same_person is None:
        merge_result = merge_by_odds(graph, spread)
        labels, threshold = merge_result.labels[start], merge_result.evidence.find_threshold(merge_result.alpha)
        false_match_rate = merge_result.evidence.estimate_false_match_rate(threshold)
    else:
        labels, threshold = merge_by_mean_cosine(graph, same_person)[start], same_person
        if measured_spread is None:
            false_match_rate = _measure_false_match_rate(embeddings[sample], labels[rank[sample]], same_person)
        else:
            false_match_rate = Evidence(measured_spread, MEAN_WITHIN).estimate_false_match_rate(same_person)

    # If a group has several faces of one photo, separate the faces. Number the groups, and measure the certainty of
    # each face.
    if photos is not None:
        labels = _separate_faces_of_one_photo(embeddings, order, photos, labels, block)
    labels = np.unique(labels, return_inverse=True)[1]
    confidence, margin = measure_confidence(embeddings, order, labels, near)
    return Grouping(
        labels=labels[rank],
        confidence=confidence[rank],
        margin=margin[rank],
        threshold=threshold,
        false_match_rate=false_match_rate,
        recall=near.recall,
    )


def _check_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Returns the embeddings as contiguous float32 (n, d).

    Raises BadInput if the embeddings are not rows of numbers.
    """
    try:
        rows = np.ascontiguousarray(embeddings, np.float32)
    except (TypeError, ValueError):
        raise BadInput("The embeddings are not numbers in rows of equal length. Give an array (n, d).") from None
    if rows.ndim != 2:
        raise BadInput(f"The embeddings have the shape {rows.shape}. Give an array (n, d), one row for each face.")
    return rows


def _check_arguments(
    embeddings: np.ndarray,
    photo_ids: Sequence[str] | None,
    must_link: Sequence[tuple[int, int]],
    cannot_link: Sequence[tuple[int, int]],
    same_person: float | None,
    neighbours: int,
) -> None:
    n = len(embeddings)
    if photo_ids is not None and len(photo_ids) != n:
        raise BadInput(
            f"There are {n} embeddings but {len(photo_ids)} photo_ids. Give one photo_id for each embedding."
        )
    if photo_ids is not None and any(photo_id is None for photo_id in photo_ids):
        raise BadInput("photo_ids contains None. Give a photo_id for every face, or leave photo_ids out.")
    if neighbours < 1:
        raise BadInput(f"neighbours is {neighbours}. Give 1 or more.")
    for begin in range(0, n, _ROWS_AT_ONCE):
        length = np.linalg.norm(embeddings[begin : begin + _ROWS_AT_ONCE], axis=1)
        if not np.abs(length - 1).max() < 1e-3:  # for NaN, the comparison is False too
            raise BadInput(
                "An embedding is not finite or does not have length 1. Normalise the embeddings, and leave out faces "
                "without an embedding."
            )
    if same_person is not None and not -1 <= same_person <= 1:
        raise BadInput(f"same_person is {same_person}. Give a cosine from -1 to 1, or leave same_person out.")
    if unknown := [row for pair in (*must_link, *cannot_link) for row in pair if not 0 <= row < n]:
        raise BadInput(f"A link names face {unknown[0]}, but there are {n} faces. The first face is face 0.")
    block = label_components(n, np.array(must_link, np.int64).reshape(-1, 2))
    for a, b in cannot_link:
        if block[a] == block[b]:
            raise BadInput(
                f"The links contradict each other: faces {a} and {b} must be one person and must be two people. Remove "
                "one of the links."
            )


def _sort_rows(embeddings: np.ndarray, photos: np.ndarray | None) -> np.ndarray:
    """Returns an order of the rows that depends only on their values, int64 (n,).

    Rows in the returned order give the same groups for every order of the input. Rows are sorted by a hash of their
    bits, then by their photo.
    """
    n, d = embeddings.shape
    weights = np.random.default_rng(0).integers(0, 2**63, d, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    key = np.empty(n, np.uint64)
    for begin in range(0, n, _ROWS_AT_ONCE):
        # -0 becomes 0, so that equal rows have equal bits
        rows = embeddings[begin : begin + _ROWS_AT_ONCE] + np.float32(0)
        key[begin : begin + len(rows)] = rows.view(np.uint32).astype(np.uint64) @ weights
    return np.lexsort((np.zeros(n) if photos is None else photos, key))


def _measure_false_match_rate(vectors: np.ndarray, labels: np.ndarray, cosine: float) -> float:
    """Returns the share of pairs with a cosine of at least `cosine`, among pairs of faces in different groups."""
    upper = np.triu_indices(len(vectors), 1)
    different = (labels[:, None] != labels[None, :])[upper]
    return float(((vectors @ vectors.T)[upper][different] >= cosine).mean()) if different.any() else 0.0


def _select_pairs(near: Neighbours, min_cosine: float) -> np.ndarray:
    """Returns the pairs of neighbours with a cosine of at least `min_cosine`, int64 (m, 2)."""
    row, column = np.nonzero((near.cosines >= min_cosine) & (near.rows >= 0))
    return np.stack([row, near.rows[row, column]], axis=1)


def _count_faces_in_photos(photos: np.ndarray | None, labels: np.ndarray) -> csr_matrix | None:
    """Returns the number of faces of each group in each photo with several faces, float32 (groups, photos).

    Returns None if no photo has several faces.
    """
    if photos is None:
        return None
    several = np.flatnonzero(np.bincount(photos)[photos] > 1)
    if len(several) == 0:
        return None
    column = np.unique(photos[several], return_inverse=True)[1]
    shape = (int(labels.max()) + 1, int(column.max()) + 1)
    return csr_matrix((np.ones(len(several), np.float32), (labels[several], column)), shape=shape)


def _separate_faces_of_one_photo(
    embeddings: np.ndarray, order: np.ndarray, photos: np.ndarray, labels: np.ndarray, block: np.ndarray
) -> np.ndarray:
    """Returns the labels after separating faces of one photo that are in one group.

    Of several faces of one photo, the face that is most similar to the group stays. Faces that must-links join form a
    block, and a block stays or leaves as a whole. Larger blocks take precedence over smaller blocks. Each block that
    leaves becomes a new group.
    """
    # Find the groups with two faces of one photo. After sorting, two faces of one group and photo are adjacent rows.
    sorted_rows = np.lexsort((photos, labels))
    is_repeated = (np.diff(labels[sorted_rows]) == 0) & (np.diff(photos[sorted_rows]) == 0)
    crowded_groups = np.unique(labels[sorted_rows[1:][is_repeated]])
    if len(crowded_groups) == 0:
        return labels

    # The similarity of a face and its group is the dot product of the face with the sum of the group, float32 (rows,).
    labels = labels.copy()
    rows = np.flatnonzero(np.isin(labels, crowded_groups))
    place = np.searchsorted(crowded_groups, labels[rows])
    vectors = embeddings[order[rows]]
    likeness = np.einsum("nd,nd->n", vectors, sum_rows(vectors, np.arange(len(rows)), place)[place])
    rows_of: dict[int, list[int]] = {}
    best: dict[int, float] = {}
    for row, member, value in zip(rows.tolist(), block[rows].tolist(), likeness.tolist(), strict=True):
        rows_of.setdefault(member, []).append(row)
        best[member] = max(best.get(member, -np.inf), value)

    # Go through the blocks in order of precedence. If an earlier block of the group has a face in the same photo, the
    # block becomes a new group.
    used_places: set[tuple[int, int]] = set()  # (group, photo)
    new_label = int(labels.max()) + 1
    for member in sorted(rows_of, key=lambda member: (-len(rows_of[member]), -best[member], rows_of[member][0])):
        places = {(int(labels[row]), int(photos[row])) for row in rows_of[member]}
        if places & used_places:
            labels[rows_of[member]], new_label = new_label, new_label + 1
        else:
            used_places |= places
    return labels
