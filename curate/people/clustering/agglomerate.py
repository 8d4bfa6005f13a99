"""Merges groups of faces in rounds. The pairs of groups with the highest scores merge first.

Only the pairs in `Graph.pairs` are scored and may merge. In a round, each group chooses the partner with the highest
score. Two groups merge if they choose each other. Other groups that chose the larger of the two groups may join the
merge in the same round. In one round, a group takes in either one group of any size, or several groups that together
have at most as many faces as the group itself. A person with many faces is therefore complete after a few rounds. A
chain of single faces does not merge in one round, because each new group is scored again before its next merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix

from curate.people.clustering.components import IN_MEMORY
from curate.people.clustering.threshold import (
    MEAN_WITHIN,
    MIN_MEAN_WITHIN,
    SELECTION_BIAS,
    Evidence,
    solve_concentration,
)
from manifests.runtime.workers import count_cores
from manifests.runtime.workspace import Workspace

# Merging by odds goes through the levels LEVELS (ours). At each level, two groups may merge if their score is at least
# log α plus the level. When no pair of groups reaches the level, the next level begins. With more levels, no label on
# our photos changes.
LEVELS = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.0)
# Merging by mean cosine goes through the levels COSINE_LEVELS (ours). At each level, two groups may merge if their mean
# cosine is at least min_cosine + level * (1 - min_cosine).
COSINE_LEVELS = (0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.0)
# A function that returns the scores of m pairs of groups. A score function has four arguments: the cosine of the
# centres, the mean cosine between the faces of the groups, the number of faces of the first group, and the number of
# faces of the second group. All arrays are float64 (m,).
Score = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_PAIRS_AT_ONCE = 2**13  # number of pairs in one step (ours); limits the memory of a thread
_PAIRS_TO_SORT = 2**21  # number of pairs that are sorted in one step; limits the memory
_PAIRS_TO_DEDUPLICATE = 2**23  # number of pairs whose duplicates are found in one step, if the memory is limited
_PAIRS_TO_SCORE = 2**23  # number of pairs that are scored in the order in which their groups lie in a file
_ROWS_AT_ONCE = 2**11  # number of groups in one step; limits the memory


@dataclass(frozen=True)
class Graph:
    """The groups at the start of merging, and the pairs of groups that may merge."""

    sums: np.ndarray  # float32 (g, d): the sum of each group's unit embeddings; merging writes into this array.
    sizes: np.ndarray  # Number of faces of each group, int64 (g,). Near-copies (group_embeddings.py) count as one face.
    pairs: np.ndarray  # Pairs of groups that may merge, int32 (m, 2), see `renumber_pairs`.
    forbidden_pairs: np.ndarray  # Pairs of groups that must never merge, int64 (k, 2).
    # Number of faces of each group in each photo, float32 (g, photos), or None if no photo has two faces. Merging
    # subtracts 1 from the cosine of two faces of one photo.
    photo_counts: csr_matrix | None
    workspace: Workspace = IN_MEMORY  # makes copies of `sums`


def select_groups(graph: Graph, rows: np.ndarray) -> Graph:
    """Returns the part of a graph that contains the groups `rows`, int64 (r,). The groups get new numbers from 0.

    `rows` is sorted. If `rows` are all groups, the function returns `graph` itself, because a copy of a large graph
    would need much memory.
    """
    if len(rows) == len(graph.sizes):
        return graph
    number = np.full(len(graph.sizes), -1, np.int32)
    number[rows] = np.arange(len(rows), dtype=np.int32)
    forbidden_pairs = number[graph.forbidden_pairs]
    pairs = []
    for begin in range(0, len(graph.pairs), _PAIRS_TO_SORT):
        part = number[graph.pairs[begin : begin + _PAIRS_TO_SORT]]
        pairs.append(part[(part >= 0).all(axis=1)])
    sums = graph.workspace.make_array((len(rows), graph.sums.shape[1]), np.float32)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        sums[begin : begin + _ROWS_AT_ONCE] = graph.sums[rows[begin : begin + _ROWS_AT_ONCE]]
        graph.workspace.trim()
    return Graph(
        sums=sums,
        sizes=graph.sizes[rows],
        pairs=np.concatenate(pairs) if pairs else graph.pairs,
        forbidden_pairs=forbidden_pairs[(forbidden_pairs >= 0).all(axis=1)],
        photo_counts=None if graph.photo_counts is None else graph.photo_counts[rows],
        workspace=graph.workspace,
    )


@dataclass(frozen=True)
class MergeResult:
    """The groups after merging by odds, and the final parameters of the odds."""

    labels: np.ndarray  # int64 (g,): groups that merged share a label
    evidence: Evidence
    alpha: float  # final concentration α of the prior (threshold.py)


def merge_by_odds(graph: Graph, spread: float) -> MergeResult:
    """Merges groups by calibrated log odds. `spread` is the spread of the cosines between strangers (threshold.py).

    While groups merge, the number of groups falls, and the concentration α of the prior (threshold.py) falls, too. With
    a smaller α, two groups need a lower score to merge.
    """
    groups = _Groups(graph)
    faces = max(len(graph.sizes), 1)  # faces that constraints have joined already count as one face
    evidence = Evidence(spread, MEAN_WITHIN)

    def compute_alpha() -> float:
        return solve_concentration(max(groups.count - 1, 1), faces)

    for level in LEVELS:
        mean = groups.measure_mean_within()
        if mean is not None:
            evidence = replace(evidence, mean_within=max(mean - SELECTION_BIAS, MIN_MEAN_WITHIN))
        groups.score_pairs(evidence.compute_log_odds)
        while groups.merge(evidence.compute_log_odds, float(np.log(compute_alpha())) + level):
            pass  # α falls with each round
    return MergeResult(_renumber(groups.labels), evidence, compute_alpha())


def merge_by_given_odds(graph: Graph, evidence: Evidence, alpha: float) -> np.ndarray:
    """Merges groups by the log odds of `evidence` with the constant concentration `alpha`.

    Returns the final label of each group of `graph`, int64 (g,).
    """
    return _merge(graph, evidence.compute_log_odds, [float(np.log(alpha)) + level for level in LEVELS])


def merge_by_mean_cosine(graph: Graph, min_cosine: float) -> np.ndarray:
    """Merges groups if the mean cosine between their faces is `min_cosine` or more.

    The most similar groups merge first. The method is average linkage. Returns the final label of each group of
    `graph`, int64 (g,).
    """
    return _merge(graph, _select_mean_cosine, [min_cosine + level * (1 - min_cosine) for level in COSINE_LEVELS])


def _select_mean_cosine(cosine: np.ndarray, mean_cosine: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return mean_cosine


def _merge(graph: Graph, score: Score, min_scores: Sequence[float]) -> np.ndarray:
    """Merges groups at each minimum score, from the highest to the lowest. Returns the final labels, int64 (g,)."""
    groups = _Groups(graph)
    groups.score_pairs(score)
    for min_score in min_scores:
        while groups.merge(score, min_score):
            pass
    return _renumber(groups.labels)


def _renumber(labels: np.ndarray) -> np.ndarray:
    """Returns the labels, renumbered from 0 without gaps. The order of the labels does not change."""
    return np.unique(labels, return_inverse=True)[1]


class _Groups:
    """The groups of faces, the sums of their embeddings, and the scored pairs of groups that may merge.

    A group that merged into another group has 0 faces and no pairs. All other groups keep their numbers.
    """

    def __init__(self, graph: Graph) -> None:
        """Stores the pairs of `graph` with a score of minus infinity."""
        self.workspace = graph.workspace
        # int64 (g,): for each group of `graph`, the group that contains it now
        self.labels = np.arange(len(graph.sums))
        self.count = len(graph.sums)  # number of groups that exist
        self.sums, self.sizes, self.photo_counts = graph.sums, graph.sizes.astype(np.float64), graph.photo_counts
        self.forbidden_pairs = graph.forbidden_pairs.astype(np.int64)
        # bool (g,): whether a constraint joined faces of the group before the merging
        self.constrained = graph.sizes > 1
        self.squared_norms = np.empty(len(self.sums))
        self._measure_norms(np.arange(len(self.sums)))
        self.pairs = graph.pairs
        self.scores = np.full(len(self.pairs), -np.inf, np.float32)

    def measure_mean_within(self) -> float | None:
        """Returns the mean cosine within groups of three faces or more, or None if there is no such group.

        The weight of a group is the square root of its number of faces. Groups in which a constraint joined faces are
        left out, because their faces may differ more than the usual faces of a person.
        """
        large = (self.sizes >= 3) & ~self.constrained
        if not large.any():
            return None
        n = self.sizes[large]
        # |sum of n unit vectors|^2 = n + the sum of the n (n - 1) cosines of different faces
        return float(np.average((self.squared_norms[large] - n) / (n * (n - 1)), weights=np.sqrt(n)))

    def _measure_norms(self, groups: np.ndarray) -> None:
        """Computes the squared length of the sum of each of the groups `groups`."""
        for begin in range(0, len(groups), _ROWS_AT_ONCE):
            part = groups[begin : begin + _ROWS_AT_ONCE]
            rows = self.sums[part]
            self.squared_norms[part] = np.einsum("gd,gd->g", rows, rows, dtype=np.float64)
            self.workspace.trim()

    def score_pairs(self, score: Score, first: int = 0) -> None:
        """Computes the scores of the pairs from the index `first` on.

        A pair that must not merge gets -inf. The order in which the pairs are scored does not change the scores.
        """
        forbidden = np.unique(_make_keys(self.forbidden_pairs, len(self.sums)))

        def score_part(part: np.ndarray) -> None:
            u, v = self.pairs[part].T
            dot = np.einsum("pd,pd->p", self.sums[u], self.sums[v]).astype(np.float64)
            if self.photo_counts is not None:  # reduce the cosine of two faces of one photo by 1
                dot -= np.asarray(self.photo_counts[u].multiply(self.photo_counts[v]).sum(axis=1)).ravel()
            a, b = self.sizes[u], self.sizes[v]
            cosine = dot / np.sqrt(np.maximum(self.squared_norms[u] * self.squared_norms[v], 1e-12))
            scores = score(cosine, dot / (a * b), a, b)
            if len(forbidden):
                keys = _make_keys(self.pairs[part], len(self.sums))
                scores[forbidden[np.searchsorted(forbidden, keys).clip(max=len(forbidden) - 1)] == keys] = -np.inf
            self.scores[part] = scores
            self.workspace.trim()

        with ThreadPoolExecutor(count_cores()) as pool:  # numpy releases the interpreter's lock, so threads are enough
            for begin in range(first, len(self.pairs), _PAIRS_TO_SCORE):
                u, v = self.pairs[begin : begin + _PAIRS_TO_SCORE].T
                list(pool.map(score_part, self._divide_pairs(begin, u, v)))

    def _divide_pairs(self, begin: int, u: np.ndarray, v: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the indices of the pairs of groups `u` and `v` in parts. The first pair has the index `begin`."""
        for chosen in self.workspace.divide_reads(v, self.sums.strides[0], u):
            for start in range(0, len(chosen), _PAIRS_AT_ONCE):
                yield begin + chosen[start : start + _PAIRS_AT_ONCE]

    def merge(self, score: Score, min_score: float) -> bool:
        """Runs one round of merges. Returns False if no pair of groups reaches `min_score`."""
        places = np.flatnonzero(self.scores >= min_score)
        if len(places) == 0:
            return False
        targets = _choose_merges(self.pairs, self.scores, places, self.sizes, np.unique(self.forbidden_pairs))
        del places

        # Add the sums, sizes and flags of each merging group to its target. The arrays are float32 (g, d), float64 (g,)
        # and bool (g,).
        merging = np.flatnonzero(targets != np.arange(len(targets)))
        changed = np.zeros(len(targets), bool)
        changed[merging] = changed[targets[merging]] = True
        at_once = self.workspace.rows_at_once // 2  # one half for `merging`, the other half for the targets
        for begin in range(0, len(merging), at_once):
            part = merging[begin : begin + at_once]
            np.add.at(self.sums, targets[part], self.sums[part])
            self.workspace.trim()
        np.add.at(self.sizes, targets[merging], self.sizes[merging])
        self.sizes[merging] = 0
        np.logical_or.at(self.constrained, targets[merging], self.constrained[merging])
        self._measure_norms(np.flatnonzero(changed & (self.sizes > 0)))
        self.labels, self.forbidden_pairs = targets[self.labels], targets[self.forbidden_pairs]
        self.count -= len(merging)
        if self.photo_counts is not None:
            shape = (len(targets), len(targets))
            matrix = csr_matrix((np.ones(len(targets), np.float32), (targets, np.arange(len(targets)))), shape=shape)
            self.photo_counts = matrix @ self.photo_counts

        # Only pairs with a changed group get new numbers and new scores. A pair of two unchanged groups cannot equal a
        # pair with a changed group, so no pair occurs twice.
        stays = ~(changed[self.pairs[:, 0]] | changed[self.pairs[:, 1]])
        changed_pairs, self.pairs, self.scores = self.pairs[~stays], self.pairs[stays], self.scores[stays]
        new_pairs = renumber_pairs(_slice_pairs(changed_pairs), targets.astype(np.int32), self.workspace)
        del changed_pairs, stays
        first = len(self.pairs)
        self.pairs = np.concatenate([self.pairs, new_pairs])
        self.scores = np.concatenate([self.scores, np.full(len(new_pairs), -np.inf, np.float32)])
        self.score_pairs(score, first)
        return True


def _make_keys(pairs: np.ndarray, count: int) -> np.ndarray:
    """Returns one int64 for each pair of group numbers below `count`. Both orders of a pair give the same int64."""
    a, b = pairs.T
    return np.minimum(a, b).astype(np.int64) * count + np.maximum(a, b)


def _slice_pairs(pairs: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    """Returns a function that yields the pairs, (m, 2), in parts."""
    return lambda: (pairs[begin : begin + _PAIRS_TO_SORT] for begin in range(0, len(pairs), _PAIRS_TO_SORT))


def renumber_pairs(
    read_pairs: Callable[[], Iterator[np.ndarray]], numbers: np.ndarray, workspace: Workspace
) -> np.ndarray:
    """Returns each pair of two different groups one time, int32 (m, 2). The smaller number comes first in each pair.

    `read_pairs` yields pairs of old numbers, (p, 2) each. The group with the old number i has the number `numbers[i]`,
    int32 (g,). The result is sorted. If the memory is limited, many pairs are sorted in several sorts. Each sort reads
    all pairs, and sorts the pairs whose smaller number belongs to this sort.
    """
    count = int(numbers.max(initial=-1)) + 1
    sorts = np.zeros(count, np.int64)  # for each number, the index of the sort to which it belongs
    if workspace.memory is not None:
        for part in read_pairs():
            sorts += np.bincount(np.minimum(*numbers[part].T), minlength=count)
        sorts = (np.cumsum(sorts) - 1) // _PAIRS_TO_DEDUPLICATE
    result = [np.zeros((0, 2), np.int32)]
    for sort in range(int(sorts.max(initial=-1)) + 1):
        keys = [np.zeros(0, np.int64)]
        for part in read_pairs():
            pairs = numbers[part]
            pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (sorts[np.minimum(*pairs.T)] == sort)]
            keys.append(_make_keys(pairs, count))
        unique = np.unique(np.concatenate(keys))
        both = np.empty((len(unique), 2), np.int32)
        both[:, 0], both[:, 1] = unique // count, unique % count
        result.append(both)
    return np.concatenate(result)


def _find_best_partners(
    pairs: np.ndarray, scores: np.ndarray, places: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the partner with the highest score for each group, int64 (count,), and the score, float32 (count,).

    Only the pairs with the indices `places` count. If two partners have equal scores, the partner with the smaller
    number is better. A group without a pair has the partner -1.
    """
    best, best_score = np.full(count, -1), np.full(count, -np.inf, np.float32)
    for begin in range(0, len(places), _PAIRS_TO_SORT):
        part = places[begin : begin + _PAIRS_TO_SORT]
        ends, others = np.concatenate([pairs[part], pairs[part][:, ::-1]]).T
        both = np.concatenate([scores[part], scores[part]])
        order = np.lexsort((others, -both, ends))
        first = order[np.concatenate([[True], np.diff(ends[order]) > 0])]  # the best pair of each group in this part
        group, other, score = ends[first], others[first], both[first]
        is_better = (score > best_score[group]) | ((score == best_score[group]) & (other < best[group]))
        best[group[is_better]], best_score[group[is_better]] = other[is_better], score[is_better]
    return best, best_score


def _choose_merges(
    pairs: np.ndarray, scores: np.ndarray, places: np.ndarray, sizes: np.ndarray, constrained: np.ndarray
) -> np.ndarray:
    """Returns for each group the number of the group into which it merges in this round, int64 (g,).

    A group that does not merge gets its own number.

    `places` are the indices of the pairs, in `pairs` (m, 2) and `scores` (m,), that reach the minimum score.
    `constrained` are the numbers of the groups in `forbidden_pairs`.
    """
    count = len(sizes)
    best, best_score = _find_best_partners(pairs, scores, places, count)
    chooser = np.flatnonzero(best >= 0)
    chosen, certainty = best[chooser], best_score[chooser]

    # If two groups chose each other, the larger group becomes a centre. If the two groups have equal sizes, the group
    # with the smaller number becomes a centre. The groups that chose a centre are its candidates.
    mutual = best[chosen] == chooser
    centre = np.zeros(count, bool)
    larger = (sizes[chooser] > sizes[chosen]) | ((sizes[chooser] == sizes[chosen]) & (chooser < chosen))
    centre[chooser[mutual & larger]] = True
    candidate = centre[chosen] & ~centre[chooser]
    chooser, chosen, certainty = chooser[candidate], chosen[candidate], certainty[candidate]

    # Sort the candidates of each centre by falling score. For each candidate, count the faces of all earlier
    # candidates.
    order = np.lexsort((chooser, -certainty, chosen))
    chooser, chosen = chooser[order], chosen[order]
    begins = np.concatenate([[True], np.diff(chosen) > 0]) if len(chosen) else np.zeros(0, bool)
    position = np.arange(len(chosen)) - np.maximum.accumulate(np.where(begins, np.arange(len(chosen)), 0))
    total = np.cumsum(sizes[chooser])
    before = total - sizes[chooser]
    faces_before = before - np.maximum.accumulate(np.where(begins, before, 0))

    # The first candidate always joins. A later candidate joins only if this candidate and all earlier candidates
    # together have at most as many faces as the centre. A group in `constrained` joins only if it is the first
    # candidate. A centre in `constrained` takes in only its first candidate. Without the rules for `constrained`, two
    # groups that must not merge could join one centre.
    is_constrained = np.zeros(count, bool)
    is_constrained[constrained] = True
    fits = faces_before + sizes[chooser] <= sizes[chosen]
    joins = (position == 0) | (fits & ~is_constrained[chooser] & ~is_constrained[chosen])
    targets = np.arange(count)
    targets[chooser[joins]] = chosen[joins]
    return targets
