"""Groups face embeddings into people.

The first step finds the nearest neighbours of every face. The second step joins near-copies of a face into one face.
The third step merges groups of faces by the log odds that two groups show one person (agglomerate.py). The odds are
calibrated without labels (threshold.py). Strangers are faces of different people. The cosines between strangers are
spread around 0, and their spread is measured on the negative cosines. The number of people determines how much evidence
two faces need to merge. Groups are compared by the cosine of their centres, so one poor face cannot join two people.

Weak faces, which say little about their person, join the groups last. Weak faces form a group of their own only if the
evidence is clear (weak_faces.py). Groups whose faces may be faces of strangers are marked (doubtful_people.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from curate.people.clustering.agglomerate import (
    Graph,
    merge_by_mean_cosine,
    merge_by_odds,
    renumber_pairs,
    select_groups,
)
from curate.people.clustering.components import IN_MEMORY, label_components, normalise_rows, sum_rows
from curate.people.clustering.confidence import measure_confidence
from curate.people.clustering.doubtful_people import find_doubtful_groups
from curate.people.clustering.faces_of_one_photo import (
    count_faces_in_photos,
    number_photos,
    separate_faces_of_one_photo,
)
from curate.people.clustering.neighbours import EXACT, Neighbours, find_neighbours
from curate.people.clustering.repeated_faces import join_repeated_faces, raise_threshold
from curate.people.clustering.threshold import (
    MEAN_WITHIN,
    SAMPLE_SIZE,
    TAIL_FACTOR,
    Evidence,
    estimate_spread,
    measure_spread,
    measure_tail_factor,
)
from curate.people.clustering.weak_faces import WEAK, form_weak_people, join_weak_groups
from manifests.errors import BadInput
from manifests.runtime.workspace import Workspace

# Two faces with a cosine of COPIES (ours) or more are near-copies, and count as one face. Near-copies come from copies
# of one picture, or from one burst of photos. If `same_person` is given, the limit is same_person + COPIES * (1 -
# same_person).
COPIES = 0.95
# Two faces are compared only if their cosine reaches a minimum. The minimum cosine is _MIN_SPREADS times the spread of
# the cosines between strangers. If `same_person` is given, the minimum cosine is `same_person` minus
# _BELOW_SAME_PERSON. Two faces that are not compared may still join one group through other faces. In a collection that
# is too large for an exact search, the minimum cosine is _MIN_SPREADS_OF_MANY times (ours) the spread of the negative
# cosines, because most neighbours with a lower cosine are strangers. Among 300,000 synthetic faces, the higher minimum
# changed the BCubed F by .0001, and reduced the time of merging to a fifth.
_MIN_SPREADS, _BELOW_SAME_PERSON = 1.5, 0.15
_MIN_SPREADS_OF_MANY = 4.4
_ROWS_AT_ONCE = 2**14  # number of rows in one step; limits the memory


@dataclass(frozen=True)
class Grouping:
    """The group of each of n faces, with measures of certainty."""

    # int64 (n,): the faces of a group have one label, and each group has a different label
    labels: np.ndarray
    confidence: np.ndarray  # Mean cosine to the other faces of the group, float32 (n,); 1 for a face that is alone.
    margin: np.ndarray  # Confidence minus the mean cosine to the nearest other group, float32 (n,).
    threshold: float  # Two single faces are one person at this cosine or more; calibrated, or `same_person`.
    # The estimated share of the pairs of strangers that have a cosine of `threshold` or more. The estimate uses the
    # measured spread. If the spread cannot be measured, as for dlib, pairs of faces in different groups are counted
    # instead.
    false_match_rate: float
    recall: float = 1.0  # Share of the true near neighbours that the search found; 1 for an exact search.
    # Whether the group of the face may contain strangers, bool (n,); None if unknown.
    doubtful: np.ndarray | None = None
    # int64 (k,): the rows that belong to the same person as another face of their photo, although no link says so
    repeated: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    evidence: Evidence | None = None  # The calibrated evidence; None if `same_person` was given.
    alpha: float | None = None  # The final α of the prior (threshold.py); None if `same_person` was given.
    notices: tuple[str, ...] = ()  # Sentences for the user about a GPU that failed.


def group_embeddings(
    embeddings: np.ndarray,
    photo_ids: Sequence[str] | None = None,
    must_link: Sequence[tuple[int, int]] = (),
    cannot_link: Sequence[tuple[int, int]] = (),
    same_person: float | None = None,
    neighbours: int = 64,
    exact: int = EXACT,
    worth: np.ndarray | None = None,
    is_main: np.ndarray | None = None,
    workspace: Workspace = IN_MEMORY,
) -> Grouping:
    """Groups the unit rows of `embeddings`, float32 (n, d).

    `photo_ids` (n,) names the photo of each face. Two faces of one photo are one person if `must_link` joins them,
    directly or through other faces. Two faces of one photo can also be one person if they are very similar
    (repeated_faces.py). Without `photo_ids`, a person may appear twice in a photo. `must_link` and `cannot_link` are
    pairs of row numbers. Links have priority over the similarity of faces.

    If `same_person` is given, no threshold is calibrated, and two groups merge if the mean cosine between their faces
    is `same_person` or more. Give `same_person` for a recognizer whose cosines between strangers are far from 0, for
    example dlib.

    Each face is compared with its `neighbours` nearest faces. The search is exact for up to `exact` faces. The groups
    do not depend on the order of the rows. Rows with equal embeddings may exchange their results.

    `worth` (n,) is a number for each face, which says how well the recognizer can recognise the face
    (curate/detection/worth.py). A face with a worth below WEAK is weak. A weak face may join a person with two strong
    faces or more, but never makes one person of two people. If `same_person` is not given, three weak faces or more may
    form a person if the evidence is clear. A face that a link names is not weak. Without `worth`, no face is weak.
    `is_main`, bool (n,), is True for the largest face of each photo. Compared with weak main faces, weak faces in the
    background more often show somebody who has no other face in the collection. The lowest cosine with which a weak
    face may join a person is therefore chosen separately for faces in the background. Without `is_main`, every face is
    a main face.

    Raises BadInput if links contradict each other or name a row that does not exist. Raises BadInput if a row is not
    finite, if the length of a row is not 1, or if another argument is out of range.
    """
    embeddings = _check_embeddings(embeddings)
    workspace.watch(embeddings)
    n = len(embeddings)
    _check_arguments(embeddings, photo_ids, must_link, cannot_link, same_person, neighbours, worth, is_main, workspace)
    if n == 0:
        empty = np.zeros(0, np.float32)
        return Grouping(np.zeros(0, np.int64), empty, empty, 1.0 if same_person is None else same_person, 0.0)

    # From here on, faces, photos and links are numbered in an order that depends only on the values of the embeddings.
    photos = None if photo_ids is None else number_photos(photo_ids)
    order = _sort_rows(embeddings, photos, workspace)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    photos = None if photos is None else photos[order]
    must = rank[np.array(must_link, np.int64).reshape(-1, 2)]
    cannot = rank[np.array(cannot_link, np.int64).reshape(-1, 2)]

    # If the memory is limited, sort the rows themselves, so that later steps read the file from its start to its end.
    # From here on, row i is embeddings[place[i]].
    place = order
    if workspace.memory is not None:
        embeddings, place = _copy_rows(embeddings, order, workspace), np.arange(n)

    # Measure the spread of the cosines between strangers on an evenly spaced sample. Find the nearest neighbours of
    # every face.
    rows = np.unique(np.linspace(0, n - 1, min(SAMPLE_SIZE, n)).astype(np.int64))
    sample = workspace.read_rows(embeddings, place[rows])
    measured_spread = measure_spread(sample)
    spread, tail_factor = measured_spread or estimate_spread(embeddings.shape[1]), TAIL_FACTOR
    if n > exact and measured_spread is not None:
        tail_factor = measure_tail_factor(sample, measured_spread)
        spread = round(spread * tail_factor / TAIL_FACTOR, 6)
    min_cosine = _MIN_SPREADS * spread if n <= exact else _MIN_SPREADS_OF_MANY * spread / tail_factor
    if same_person is not None:
        min_cosine = same_person - _BELOW_SAME_PERSON
    least = min_cosine if same_person is None else same_person
    near = find_neighbours(embeddings, place, neighbours, least, exact, workspace)

    # Find the pairs of near-copies, int64 (m, 2), and join each set of near-copies into one face. The vector of a
    # joined face is the normalised mean of its near-copies, float32 (faces, d). Three kinds of pairs are never
    # near-copies: two faces of one photo, two weak faces, and a pair with a face that a cannot-link names.
    linked = np.isin(np.arange(n), np.concatenate([must.ravel(), cannot.ravel()]))
    is_strong = np.ones(n, bool) if worth is None else (worth[order] >= WEAK) | linked
    block = label_components(n, must)
    least = COPIES if same_person is None else raise_threshold(same_person, COPIES)
    copies = np.concatenate([np.zeros((0, 2), np.int32), *_read_pairs(near, least, workspace)()])
    copies = copies[~np.isin(block[copies], block[cannot]).any(1) & is_strong[copies].any(1)]
    if photos is not None:
        copies = copies[photos[copies[:, 0]] != photos[copies[:, 1]]]
    face = label_components(n, copies)
    sums = sum_rows(embeddings, place, face, workspace)
    normalise_rows(sums, workspace)

    # Make the first groups. A group is a single face, or all faces that must-links join. A group is weak if all its
    # faces are weak.
    start = label_components(len(sums), face[must])
    sizes = np.bincount(start)
    if len(sizes) < len(sums):
        sums = sum_rows(sums, np.arange(len(sums)), start, workspace)
    start = start[face]
    strong = np.bincount(start, is_strong) > 0  # bool (groups,)
    graph = Graph(
        sums=sums,
        sizes=sizes,
        pairs=renumber_pairs(_read_pairs(near, min_cosine, workspace), start.astype(np.int32), workspace),
        forbidden_pairs=start[cannot],
        photo_counts=count_faces_in_photos(photos, start),
        workspace=workspace,
    )

    near = replace(
        near, cosines=np.zeros((0, 0), np.float32)
    )  # the cosines are not needed any more, and take much memory

    # Merge the strong groups, then let the weak groups join. The cosines of weak faces to strangers are not more widely
    # spread than the negative cosines, so the spread is divided by `tail_factor`. Last, faces that are still alone
    # may form people. Estimate the share of the pairs of strangers that reach the threshold.
    strong_graph = select_groups(graph, np.flatnonzero(strong))
    if same_person is None:
        merge_result = merge_by_odds(strong_graph, spread)
        merged, evidence = merge_result.labels, merge_result.evidence
        threshold = evidence.find_threshold(merge_result.alpha)
    else:
        merged, threshold = merge_by_mean_cosine(strong_graph, same_person), same_person
        evidence = Evidence(spread, MEAN_WITHIN)
    del strong_graph  # The sums of a large graph need much memory.
    has_formed = np.zeros(len(sizes), bool)  # Whether a group is in a person that weak faces formed.
    main = np.ones(len(sizes), bool) if is_main is None else np.bincount(start, np.asarray(is_main, bool)[order]) > 0
    people = join_weak_groups(strong, merged, graph, spread / tail_factor, same_person, main)
    if worth is not None and same_person is None:
        best_worth = np.full(len(sizes), -np.inf)
        np.maximum.at(best_worth, start, worth[order])
        people, has_formed = form_weak_people(people, best_worth, graph, evidence)
    del graph, sums
    labels = people[start]
    if same_person is not None and measured_spread is None:
        false_match_rate = _measure_false_match_rate(sample, labels[rows], same_person)
    else:
        false_match_rate = evidence.estimate_false_match_rate(threshold)

    # If a group has several faces of one photo, separate the faces. Then find the photos that show one person twice.
    # Number the groups, and measure the certainty of each face.
    repeated = np.zeros(0, np.int64)
    if photos is not None:
        labels = separate_faces_of_one_photo(embeddings, place, photos, labels, block, workspace)
        labels, repeated = join_repeated_faces(embeddings, place, photos, labels, linked, threshold, workspace)
    labels = np.unique(labels, return_inverse=True)[1]
    doubtful = np.zeros(n, bool)
    if same_person is None:
        counts = np.zeros(n, bool)  # True for one row of each joined face, if possible a strong row
        strong_first = np.argsort(~is_strong, kind="stable")
        counts[strong_first[np.unique(face[strong_first], return_index=True)[1]]] = True
        doubtful = find_doubtful_groups(
            embeddings, place, labels, is_strong & counts, has_formed[start] & counts, spread, workspace
        )[labels]
        doubtful &= ~np.isin(labels, labels[must])
    confidence, margin = measure_confidence(embeddings, place, labels, near.rows, workspace)
    return Grouping(
        labels=labels[rank],
        confidence=confidence[rank],
        margin=margin[rank],
        threshold=threshold,
        false_match_rate=false_match_rate,
        recall=near.recall,
        doubtful=doubtful[rank],
        repeated=np.sort(order[repeated]),
        evidence=evidence if same_person is None else None,
        alpha=merge_result.alpha if same_person is None else None,
        notices=near.notices,
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
    worth: np.ndarray | None,
    is_main: np.ndarray | None,
    workspace: Workspace,
) -> None:
    n = len(embeddings)
    if is_main is not None and len(is_main) != n:
        raise BadInput(
            f"There are {n} embeddings, but is_main has {len(is_main)} entries. Give one entry for each embedding."
        )
    if worth is not None and (len(worth) != n or np.isnan(worth).any()):
        raise BadInput(f"worth must contain one number for each of the {n} embeddings, and no NaN.")
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
        if not np.abs(length - 1).max() < 1e-3:  # a length of NaN also fails this comparison
            raise BadInput(
                "An embedding is not finite or does not have length 1. Normalise the embeddings, and leave out faces "
                "without an embedding."
            )
        workspace.trim()
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


def _sort_rows(embeddings: np.ndarray, photos: np.ndarray | None, workspace: Workspace) -> np.ndarray:
    """Returns an order of the rows that depends only on the values of the rows, int64 (n,).

    The groups therefore do not depend on the order of the input. Rows are sorted by a hash of their bits, then by their
    photo.
    """
    n, d = embeddings.shape
    weights = np.random.default_rng(0).integers(0, 2**63, d, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    key = np.empty(n, np.uint64)
    for begin in range(0, n, _ROWS_AT_ONCE):
        # -0 becomes 0, so that equal rows have equal bits
        rows = embeddings[begin : begin + _ROWS_AT_ONCE] + np.float32(0)
        key[begin : begin + len(rows)] = rows.view(np.uint32).astype(np.uint64) @ weights
        workspace.trim()
    return np.lexsort((np.zeros(n) if photos is None else photos, key))


def _measure_false_match_rate(vectors: np.ndarray, labels: np.ndarray, cosine: float) -> float:
    """Returns the share of pairs with a cosine of at least `cosine`, among pairs of faces in different groups."""
    upper = np.triu_indices(len(vectors), 1)
    different = (labels[:, None] != labels[None, :])[upper]
    return float(((vectors @ vectors.T)[upper][different] >= cosine).mean()) if different.any() else 0.0


def _copy_rows(embeddings: np.ndarray, order: np.ndarray, workspace: Workspace) -> np.ndarray:
    """Returns a copy of `embeddings[order]`. Each part of the copy takes a quarter of the slack of the memory."""
    copy = workspace.make_array(embeddings.shape, np.float32)
    at_once = max(workspace.slack // 4 // embeddings.strides[0], _ROWS_AT_ONCE)
    for begin in range(0, len(order), at_once):
        copy[begin : begin + at_once] = workspace.read_rows(embeddings, order[begin : begin + at_once])
        workspace.trim()
    return copy


def _read_pairs(near: Neighbours, min_cosine: float, workspace: Workspace) -> Callable[[], Iterator[np.ndarray]]:
    """Returns a function that yields the pairs of neighbours with a cosine of at least `min_cosine`.

    The pairs come in parts, int32 (p, 2).
    """

    def read() -> Iterator[np.ndarray]:
        for begin in range(0, len(near.rows), _ROWS_AT_ONCE):
            rows, cosines = near.rows[begin : begin + _ROWS_AT_ONCE], near.cosines[begin : begin + _ROWS_AT_ONCE]
            row, column = np.nonzero((cosines >= min_cosine) & (rows >= 0))
            yield np.stack([row + begin, rows[row, column]], axis=1).astype(np.int32)
            workspace.trim()

    return read
