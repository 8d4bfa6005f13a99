"""Groups the faces that say little about their person: poor, covered and drawn faces.

The embeddings of such faces share a direction, so strangers among them are similar. The evidence of threshold.py does
not hold between two such faces. But between such a face and the centre of clear faces, the cosines of strangers are
spread around 0 as usual. A weak face is therefore first compared with people only, and changes no centre.

Some people have hardly any clear photo. So the weak faces that are still alone may form a person, but they need more
evidence than other faces: a wider spread of the cosines between strangers, and three faces. With `same_person`, weak
faces form no person.
"""

from __future__ import annotations

from dataclasses import replace

import faiss
import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import ndtri

from curate.people.clustering.agglomerate import Graph, merge_by_given_odds, select_groups
from curate.people.clustering.threshold import Evidence, solve_concentration

# A face with a worth below WEAK is weak (ours). The worth is 0 for unrecognisable faces and 1 for good faces. Of 2,757
# faces of web photos, 14% are weak. With .64, more covered faces joined a wrong person. With .70, people of four photos
# were lost.
WEAK = 0.66
_MIN_FACES = 2  # a weak face joins only people with this many strong faces; near-copies count as one face
# The expected share of the weak faces that join a wrong person by chance. A larger share lets more faces join their own
# person (ours).
_CHANCE = 0.005
# The cosine to the person must also be _LEAST_SPREADS times the spread of the cosines between strangers (ours). Without
# this limit, a weak face of a small clean collection leaves its person when photos of strangers are added.
_LEAST_SPREADS = 3.2
_CANDIDATES = 4  # number of nearest people that a weak face is compared with
# The following three numbers were chosen on collections of 200 clear photos and 100 degraded strangers, in which no
# strangers form a person, and on a person of whom seven of eight photos are weak (ours, docs/grouping.md).
# Weak faces form a person of at least _MIN_FOUNDERS faces, each with a worth of at least _MIN_WORTH.
_MIN_FOUNDERS, _MIN_WORTH = 3, 0.25
# The spread of the cosines between strangers is multiplied by WEAK_FACTOR, because weak strangers are more similar.
WEAK_FACTOR = 1.3


def join_weak_groups(
    strong: np.ndarray,
    merged: np.ndarray,
    graph: Graph,
    spread: float,
    same_person: float | None,
) -> np.ndarray:
    """Returns the person of each of the g groups of `graph`, int64 (g,). A weak group joins a person, or is alone.

    `strong` (g,) tells which groups are strong, and `merged` contains the labels of the strong groups after merging. A
    weak group joins the nearest person if the cosine to the person's centre is so high that few weak faces reach it by
    chance. `spread` is the standard deviation of the cosines between strangers. If `same_person` is given, the mean
    cosine to the person's faces must be `same_person` or more.
    """
    sums, sizes, photo_counts = graph.sums, graph.sizes, graph.photo_counts
    labels = np.empty(len(strong), np.int64)
    labels[strong] = merged
    people = int(merged.max(initial=-1)) + 1
    weak = np.flatnonzero(~strong)
    labels[weak] = people + np.arange(len(weak))

    # The sum and the number of faces of each person, float64 (people, d) and (people,)
    person_sums = np.zeros((people, sums.shape[1]))
    np.add.at(person_sums, merged, sums[strong])
    person_sizes = np.bincount(merged, sizes[strong], minlength=people)
    known = np.flatnonzero(person_sizes >= _MIN_FACES)
    if len(weak) == 0 or len(known) == 0:
        return labels

    # Find the nearest people of each weak group, (weak, candidates), and the similarity to each of them.
    centres = person_sums / np.maximum(np.linalg.norm(person_sums, axis=1, keepdims=True), 1e-12)
    vectors = np.ascontiguousarray(sums[weak], np.float32)
    candidates = min(_CANDIDATES, len(known))
    cosines, near = faiss.knn(vectors, centres[known].astype(np.float32), candidates, faiss.METRIC_INNER_PRODUCT)
    # The last bits depend on the number of threads, so the cosines are rounded.
    near, similarity = known[near], cosines.astype(np.float64).round(6)
    if same_person is not None:
        similarity *= np.linalg.norm(person_sums, axis=1)[near] / person_sizes[near]
    if photo_counts is not None:  # a weak face does not join a person who has another face in the photo
        ones = (np.ones(len(merged), np.float32), (merged, np.arange(len(merged))))
        counts = csr_matrix(ones, shape=(people, len(merged))) @ photo_counts[strong]
        for column in range(candidates):
            shared = np.asarray(photo_counts[weak].multiply(counts[near[:, column]]).sum(axis=1)).ravel()
            similarity[shared > 0, column] = -np.inf

    # Join each weak group to its best person, if the similarity is high enough.
    best = similarity.argmax(axis=1)
    value, person = similarity[np.arange(len(weak)), best], near[np.arange(len(weak)), best]
    joins = _select_likely(value, len(known), spread) if same_person is None else value >= same_person
    labels[weak[joins]] = person[joins]
    return labels


def form_weak_people(
    labels: np.ndarray, worth: np.ndarray, graph: Graph, evidence: Evidence
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the person of each group after faces without a person have formed people, and which groups did so.

    The first result is int64 (g,), and the second is bool (g,). `labels` are the people of the g groups of `graph`
    before, and `worth` (g,) is the worth of each group's best face. Weak and strong groups of one face take part if
    they are alone. The evidence for a merge is `evidence` with a wider spread.
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

    `cosines` (w,) are the cosines to the nearest of `people` people. The faces that have not joined count as strangers.
    At most a share of _CHANCE of the faces may reach the limit by chance, so the limit is low if there are few
    strangers. It is never lower than _LEAST_SPREADS times `spread`.
    """
    joins = np.zeros(len(cosines), bool)
    while True:
        pairs = people * max(int((~joins).sum()), 1)
        more = cosines >= max(-ndtri(min(_CHANCE * len(cosines) / pairs, 0.5)), _LEAST_SPREADS) * spread
        if more.sum() == joins.sum():
            return joins
        joins = more
