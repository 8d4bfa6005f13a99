"""Groups the weak faces: faces that say little about their person, for example poor, covered and drawn faces.

The embeddings of weak faces share a direction, so the embeddings of two strangers are similar if both faces are weak.
The odds of threshold.py are therefore wrong for two weak faces. The cosines between a weak face and the centres of
other people's clear faces are spread around 0 as usual. A weak face is therefore first compared only with the centres
of people, and does not change a centre.

Some people have hardly any clear photo. Weak faces that are still alone may therefore form a person. Weak faces need
more evidence than other faces: at least three faces, and higher cosines, because a wider spread of the cosines between
strangers is assumed. If `same_person` is given, weak faces form no person.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import ndtri

from curate.people.clustering.agglomerate import Graph, merge_by_given_odds, select_groups
from curate.people.clustering.neighbours import search_rows
from curate.people.clustering.threshold import Evidence, solve_concentration

# A face with a worth below WEAK (ours) is weak. The worth is 0 for unrecognisable faces and 1 for good faces. Of 2,757
# faces of web photos, 14% are weak. With a limit of .64, more covered faces joined a wrong person. With a limit of .70,
# some people with four photos were not found.
WEAK = 0.66
_MIN_FACES = 2  # A weak face joins only people with 2 strong faces or more (near-copies count as one face).
# At most the share _CHANCE (ours) of the weak faces is expected to join a wrong person by chance. With a larger share,
# more weak faces join a person: their own person or a wrong person.
_CHANCE = 0.005
# In any case, the cosine to the person must be at least _LEAST_SPREADS times (ours) the spread of the cosines between
# strangers. Without _LEAST_SPREADS, some weak faces of a small clean collection left their person as soon as photos of
# strangers were added.
_LEAST_SPREADS = 3.2
_ROWS_AT_ONCE = 2**14  # Number of rows in one step; limits the memory.
_CANDIDATES = 4  # A weak face is compared with its 4 nearest people.
# The following three numbers are ours. We chose the three numbers on collections of 200 clear photos and 100 degraded
# photos of strangers, so that no strangers form a person. We also looked at how many faces of a person with seven weak
# faces and one clear face are joined (docs/grouping.md). Faces that are still alone, weak or clear, can form a person
# of at least _MIN_FOUNDERS faces, each with a worth of at least _MIN_WORTH.
_MIN_FOUNDERS, _MIN_WORTH = 3, 0.25
# For weak faces, the spread of the cosines between strangers is multiplied by WEAK_FACTOR, because weak faces of
# strangers are more similar.
WEAK_FACTOR = 1.3


def join_weak_groups(
    strong: np.ndarray,
    merged: np.ndarray,
    graph: Graph,
    spread: float,
    same_person: float | None,
    main: np.ndarray,
) -> np.ndarray:
    """Returns the person of each of the g groups of `graph`, int64 (g,). Each weak group joins a person or is alone.

    `strong`, bool (g,), is True for groups with a strong face. `merged` are the labels of the strong groups after the
    merging. A weak group joins the nearest person if the cosine to the person's centre is so high that few weak faces
    reach this cosine by chance. `spread` is the standard deviation of the cosines between strangers. If `same_person`
    is given, the mean cosine to the person's faces must be `same_person` or more. `main`, bool (g,), is True for groups
    with the largest face of a photo. Groups with the value False are in the background of photos, and have a limit of
    their own.
    """
    sums, sizes, photo_counts = graph.sums, graph.sizes, graph.photo_counts
    labels = np.empty(len(strong), np.int64)
    labels[strong] = merged
    people = int(merged.max(initial=-1)) + 1
    weak = np.flatnonzero(~strong)
    labels[weak] = people + np.arange(len(weak))

    # The sum and the number of faces of each person, float64 (people, d) and (people,)
    person_sizes = np.bincount(merged, sizes[strong], minlength=people)
    known = np.flatnonzero(person_sizes >= _MIN_FACES)
    if len(weak) == 0 or len(known) == 0:
        return labels
    workspace = graph.workspace
    person_sums = workspace.make_array((people, sums.shape[1]), np.float64)
    for begin in range(0, people, _ROWS_AT_ONCE):
        person_sums[begin : begin + _ROWS_AT_ONCE] = 0
    rows = np.flatnonzero(strong)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        end = begin + _ROWS_AT_ONCE
        np.add.at(person_sums, merged[begin:end], sums[rows[begin:end]])
        workspace.trim()

    # Find the nearest people of each weak group, and the similarity of the group to each of them: arrays (weak groups,
    # candidates).
    lengths = np.empty(people)
    centres = workspace.make_array(person_sums.shape, np.float32)
    for begin in range(0, people, _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        lengths[part] = np.linalg.norm(person_sums[part], axis=1)
        centres[part] = person_sums[part] / np.maximum(lengths[part, None], 1e-12)
        workspace.trim()
    candidates = min(_CANDIDATES, len(known))
    cosines, near = np.empty((len(weak), candidates), np.float32), np.empty((len(weak), candidates), np.int64)
    for begin in range(0, len(weak), _ROWS_AT_ONCE):
        end = begin + _ROWS_AT_ONCE
        vectors = workspace.read_rows(sums, weak[begin:end])
        cosines[begin:end], near[begin:end] = search_rows(vectors, centres, known, candidates, workspace)
    # The last bits depend on the number of threads, so the cosines are rounded.
    near, similarity = known[near], cosines.astype(np.float64).round(6)
    if same_person is not None:
        similarity *= lengths[near] / person_sizes[near]
    blocked = np.zeros(similarity.shape, bool)  # whether the person has another face in the same photo
    if photo_counts is not None:
        ones = (np.ones(len(merged), np.float32), (merged, np.arange(len(merged))))
        counts = csr_matrix(ones, shape=(people, len(merged))) @ photo_counts[strong]
        for column in range(candidates):
            shared = np.asarray(photo_counts[weak].multiply(counts[near[:, column]]).sum(axis=1)).ravel()
            blocked[:, column] = shared > 0

    # Join each weak group to its nearest person, if the similarity is high enough. If the nearest person has another
    # face in the same photo, the weak group stays alone, because the second nearest person is probably somebody else.
    best = similarity.argmax(axis=1)
    value, person = similarity[np.arange(len(weak)), best], near[np.arange(len(weak)), best]
    value[blocked[np.arange(len(weak)), best]] = -np.inf
    if same_person is not None:
        joins = value >= same_person
    else:
        joins = np.zeros(len(weak), bool)
        for kind in (main[weak], ~main[weak]):
            joins[kind] = _select_likely(value[kind], len(known), spread)
    labels[weak[joins]] = person[joins]
    return labels


def form_weak_people(
    labels: np.ndarray, worth: np.ndarray, graph: Graph, evidence: Evidence
) -> tuple[np.ndarray, np.ndarray]:
    """Merges people with a single face into new people.

    Returns the person of each group, and whether the group formed a person. The first result is int64 (g,), and the
    second result is bool (g,). `labels` are the people of the g groups of `graph` before the merges. `worth` (g,) is
    the highest worth in each group. Every person with a single face takes part, if the face has a worth of at least
    _MIN_WORTH. Groups merge by the odds of `evidence`, but with a spread that is WEAK_FACTOR times as wide.
    """
    has_formed = np.zeros(len(labels), bool)
    alone = np.flatnonzero((np.bincount(labels, graph.sizes)[labels] == 1) & (worth >= _MIN_WORTH))
    if len(alone) < _MIN_FOUNDERS:
        return labels, has_formed
    alpha = solve_concentration(int(labels.max()) + 1, len(labels))
    wider = replace(evidence, spread=WEAK_FACTOR * evidence.spread)
    merged = merge_by_given_odds(select_groups(graph, alone), wider, alpha)
    forms = np.bincount(merged)[merged] >= _MIN_FOUNDERS
    has_formed[alone[forms]] = True
    labels = labels.copy()
    labels[has_formed] = labels.max() + 1 + merged[forms]
    return np.unique(labels, return_inverse=True)[1], has_formed


def _select_likely(cosines: np.ndarray, people: int, spread: float) -> np.ndarray:
    """Returns which weak faces join their nearest person, bool (w,).

    `cosines` (w,) are the cosines of w weak faces to the nearest of `people` people. The faces that do not join count
    as strangers. The limit of the cosine is chosen so that at most the share _CHANCE of the w faces is expected to
    reach the limit by chance. With fewer strangers, the limit is lower, but never lower than _LEAST_SPREADS times
    `spread`.
    """
    joins = np.zeros(len(cosines), bool)
    while True:
        pairs = people * max(int((~joins).sum()), 1)
        more = cosines >= max(-ndtri(min(_CHANCE * len(cosines) / pairs, 0.5)), _LEAST_SPREADS) * spread
        if more.sum() == joins.sum():
            return joins
        joins = more
