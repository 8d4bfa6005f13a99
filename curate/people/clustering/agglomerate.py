"""Groups of faces grow by merging, the surest merges first, all groups at once in rounds.

A round looks at each group's best candidate among the groups that share an edge of the neighbour graph. Two groups
that are each other's best merge; a group that is a best candidate takes in as many of those that chose it as it has
faces, so that a large person is complete after a few rounds and a chain of lone faces is never joined unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix

from curate.people.clustering.evidence import FOUND_TOO_ALIKE, LEAST_WITHIN, WITHIN, Evidence, concentration
from manifests.runtime.workers import count_cores

# log odds above even at which rounds are run to their end before less sure merges are looked at; ours: finer steps
# change no label on our photos
LEVELS = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.0)
# (cosine of the centres, mean cosine across, faces, faces), float64 (m,) each -> what is compared with the bar
Odds = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_PAIRS_AT_ONCE = 2**13  # their sums fit into a core's cache


@dataclass(frozen=True)
class Graph:
    """The groups that merging begins with, and which of them may meet."""

    sums: np.ndarray  # float32 (g, d): the sum of each group's unit embeddings; merging works in this array
    size: np.ndarray  # float64 (g,): its faces
    pairs: np.ndarray  # int32 (m, 2): groups that may be compared, in any order, repeats allowed
    apart: np.ndarray  # int64 (k, 2): groups that must not become one
    shown: (
        csr_matrix | None
    )  # (g, photos): faces of each group in each photo; the cosine of two of one photo counts 1 less


@dataclass(frozen=True)
class Merged:
    label: np.ndarray  # int64 (g,)
    evidence: Evidence
    alpha: float  # concentration of the process that the prior odds follow


def agglomerate(graph: Graph, spread: float) -> Merged:
    """Which groups become one, by calibrated odds; `spread` is that of strangers' cosines.

    The bar falls as groups merge: the fewer people there turn out to be, the less evidence two faces need.
    """
    groups, begun = _Groups(graph), len(graph.size)  # faces that were said to be one person count once
    evidence = Evidence(spread, WITHIN)

    def alpha() -> float:
        return concentration(max(groups.count - 1, 1), begun)

    for level in LEVELS:
        found = groups.mean_cosine()
        if found is not None:
            evidence = replace(evidence, within=max(found - FOUND_TOO_ALIKE, LEAST_WITHIN))
        groups.weigh(evidence.log_odds)
        while groups.merge(evidence.log_odds, float(np.log(alpha())) + level):
            pass
    return Merged(_from_zero(groups.label), evidence, alpha())


def merge_by_mean_cosine(graph: Graph, at_least: float) -> np.ndarray:
    """Which groups become one, int64 (g,): those whose faces have this mean cosine across, the most alike first."""
    groups = _Groups(graph)
    for level in (0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.0):
        bar = at_least + level * (1 - at_least)
        groups.weigh(_mean_cosine)
        while groups.merge(_mean_cosine, bar):
            pass
    return _from_zero(groups.label)


def _mean_cosine(cosine: np.ndarray, mean: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return mean


def _from_zero(label: np.ndarray) -> np.ndarray:
    return np.unique(label, return_inverse=True)[1]


class _Groups:
    """Groups, their sums, and the pairs of them that may merge, with the odds of each.

    A group keeps its number while it lives; one that was taken in has no faces and no pairs any more.
    """

    def __init__(self, graph: Graph) -> None:
        self.label = np.arange(len(graph.sums))
        self.count = len(graph.sums)
        self.sum, self.size, self.shown = graph.sums, graph.size.astype(np.float64), graph.shown
        self.apart, self.said = graph.apart.astype(np.int64), graph.size > 1
        self.squared = np.einsum("gd,gd->g", self.sum, self.sum, dtype=np.float64)
        self.pairs, first = _each_once(graph.pairs, len(self.sum))
        self.odds = np.full(len(first), -np.inf, np.float32)

    def mean_cosine(self) -> float | None:
        """Mean cosine inside groups of three faces or more, each weighing as the root of its faces; None without.

        Groups that hold faces said to be one person tell nothing about how alike a person's faces are.
        """
        large = (self.size >= 3) & ~self.said
        if not large.any():
            return None
        n = self.size[large]
        return float(np.average((self.squared[large] - n) / (n * (n - 1)), weights=np.sqrt(n)))

    def weigh(self, odds: Odds, which: np.ndarray | None = None) -> None:
        """The odds of the pairs in these places, of all where none are named."""
        which = np.arange(len(self.pairs)) if which is None else which

        def part(begin: int) -> None:
            places = which[begin : begin + _PAIRS_AT_ONCE]
            u, v = self.pairs[places].T
            dot = np.einsum("pd,pd->p", self.sum[u], self.sum[v]).astype(np.float64)
            if self.shown is not None:  # the cosine of two faces of one photo counts 1 less
                dot -= np.asarray(self.shown[u].multiply(self.shown[v]).sum(axis=1)).ravel()
            a, b = self.size[u], self.size[v]
            cosine = dot / np.sqrt(np.maximum(self.squared[u] * self.squared[v], 1e-12))
            self.odds[places] = odds(cosine, dot / (a * b), a, b)

        with ThreadPoolExecutor(count_cores()) as pool:  # numpy lets go of the interpreter's lock
            list(pool.map(part, range(0, len(which), _PAIRS_AT_ONCE)))
        if len(self.apart):
            keys = _keys(self.apart, len(self.sum))
            self.odds[which[np.isin(_keys(self.pairs[which], len(self.sum)), keys)]] = -np.inf

    def merge(self, odds: Odds, bar: float) -> bool:
        """One round; False where no two groups reach the bar."""
        good = np.flatnonzero(self.odds >= bar)
        if len(good) == 0:
            return False
        into = _stars(self.pairs[good], self.odds[good], self.size, np.unique(self.apart))
        moved = np.flatnonzero(into != np.arange(len(into)))
        changed = np.zeros(len(into), bool)
        changed[moved] = changed[into[moved]] = True
        np.add.at(self.sum, into[moved], self.sum[moved])
        np.add.at(self.size, into[moved], self.size[moved])
        self.size[moved] = 0
        np.logical_or.at(self.said, into[moved], self.said[moved])
        alive = np.flatnonzero(changed & (self.size > 0))
        self.squared[alive] = np.einsum("gd,gd->g", self.sum[alive], self.sum[alive], dtype=np.float64)
        self.label, self.apart, self.count = into[self.label], into[self.apart], self.count - len(moved)
        if self.shown is not None:
            joined = csr_matrix((np.ones(len(into), np.float32), (into, np.arange(len(into)))), shape=(len(into),) * 2)
            self.shown = joined @ self.shown
        touched = changed[self.pairs[:, 0]] | changed[self.pairs[:, 1]]
        fresh, _ = _each_once(into[self.pairs[touched]], len(into))
        # a pair that was not touched cannot be the same as one that was
        self.pairs = np.concatenate([self.pairs[~touched], fresh])
        self.odds = np.concatenate([self.odds[~touched], np.full(len(fresh), -np.inf, np.float32)])
        self.weigh(odds, np.arange(len(self.pairs) - len(fresh), len(self.pairs)))
        return True


def _keys(pairs: np.ndarray, count: int) -> np.ndarray:
    """One int64 for each unordered pair of group numbers below `count`."""
    return pairs.min(axis=1).astype(np.int64) * count + pairs.max(axis=1)


def _each_once(pairs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of two different groups once, the smaller number first, int32 (m, 2), and where each came from."""
    keys, first = np.unique(_keys(pairs, count), return_index=True)
    both = np.stack([keys // count, keys % count], axis=1).astype(np.int32)
    differ = both[:, 0] != both[:, 1]
    return both[differ], first[differ]


def _stars(pairs: np.ndarray, odds: np.ndarray, size: np.ndarray, constrained: np.ndarray) -> np.ndarray:
    """into (groups,): the group that each group merges into this round, itself where it stays."""
    count = len(size)
    ends, others = np.concatenate([pairs, pairs[:, ::-1]]).T
    both = np.concatenate([odds, odds])
    order = np.lexsort((others, -both, ends))
    first = np.concatenate([[True], np.diff(ends[order]) > 0])
    chooser, chosen, sure = ends[order][first], others[order][first], both[order][first]
    best = np.full(count, -1)
    best[chooser] = chosen
    mutual = best[chosen] == chooser
    # of two that chose each other the larger is the centre, then the one with the smaller number
    centre = np.zeros(count, bool)
    larger = (size[chooser] > size[chosen]) | ((size[chooser] == size[chosen]) & (chooser < chosen))
    centre[chooser[mutual & larger]] = True
    leaf = centre[chosen] & ~centre[chooser]
    chooser, chosen, sure = chooser[leaf], chosen[leaf], sure[leaf]
    order = np.lexsort((chooser, -sure, chosen))
    chooser, chosen = chooser[order], chosen[order]
    begins = np.concatenate([[True], np.diff(chosen) > 0]) if len(chosen) else np.zeros(0, bool)
    position = np.arange(len(chosen)) - np.maximum.accumulate(np.where(begins, np.arange(len(chosen)), 0))
    weight = np.cumsum(size[chooser])
    before = weight - size[chooser]
    taken = before - np.maximum.accumulate(np.where(begins, before, 0))
    # groups that must stay apart from others join one at a time, or two of them could meet in the same centre
    bound = np.zeros(count, bool)
    bound[constrained] = True
    joins = (position == 0) | ((taken + size[chooser] <= size[chosen]) & ~bound[chooser] & ~bound[chosen])
    into = np.arange(count)
    into[chooser[joins]] = chosen[joins]
    return into
