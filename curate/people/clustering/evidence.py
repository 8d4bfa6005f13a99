"""How much a cosine says about two groups of faces: log odds of one person against two, calibrated without labels.

The score of two groups is the cosine of their centres (mean embeddings). Between strangers it is spread around 0 with
one standard deviation, whatever the groups' sizes; within a person it rises with the sizes. The prior odds follow the
Chinese restaurant process: a face joins a group of b faces with odds b / α, and a group of a faces that formed by
itself with b / (a^1.5 α) (ours). α grows with the number of people, so that in a collection of many people with one
photo each two lone faces need more evidence than a face and a large group do. Every constant here is ours;
docs/grouping.md says what they were chosen on and what each is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

# strangers' cosines have a heavier upper tail than the normal distribution that fits their negative half: relatives,
# look-alikes and poor photos. The spread is widened by this much.
TAIL = 1.25
# spread where too few pairs have a negative cosine to measure it: ArcFace, 128 dimensions, measured .096 on web photos,
# 1.09 times the 1 / sqrt(d) of random directions
ISOTROPIC = 1.09
# a person's faces: mean cosine before any group is known, and its spread (.15 to .21 between single faces; ages and
# poor photos keep together, so that between groups it is hardly smaller)
WITHIN, SPREAD_WITHIN = 0.55, 0.16
# two groups of a and b faces, a the smaller, are one person with prior odds b / (a^CAUTION α): a wrong merge of two
# large groups (sisters, look-alikes) spoils more pairs than a missed one costs
CAUTION = 1.5
# groups that were found hold the more alike faces of their people: their mean cosine is this much too high
FOUND_TOO_ALIKE = 0.03
LEAST_WITHIN = 0.2  # below it a recognizer tells nobody apart
SAMPLE = 4096  # faces whose cosines with each other show the strangers' spread
_ENOUGH = 0.01  # share of negative cosines below which the collection holds too few strangers to measure them


@dataclass(frozen=True)
class Evidence:
    """The calibrated odds."""

    spread: float  # standard deviation of strangers' cosines, the tail's widening included
    within: float  # mean cosine of two faces of one person

    def log_odds(self, cosine: np.ndarray, mean: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Log odds, without -log α, that groups of `a` and `b` faces with this cosine of centres are one person.

        float64 (m,) each; `mean`, the mean cosine across, follows from the others and is not used.
        """
        small, large = np.minimum(a, b), np.maximum(a, b)
        norms = (self.within + (1 - self.within) / a) * (self.within + (1 - self.within) / b)
        expected = self.within / np.sqrt(norms)
        same = -0.5 * (np.minimum(cosine - expected, 0) / SPREAD_WITHIN) ** 2 - np.log(SPREAD_WITHIN)
        strangers = -0.5 * (np.maximum(cosine, 0) / self.spread) ** 2 - np.log(self.spread)
        return np.asarray(same - strangers + np.log(large) - CAUTION * np.log(small))

    def threshold(self, alpha: float) -> float:
        """The least cosine that makes two lone faces one person; 1 where none does."""
        cosines = np.linspace(0, 1, 10001)
        one = np.ones(1)
        enough = self.log_odds(cosines, cosines, one, one) >= np.log(alpha)
        return float(cosines[enough.argmax()]) if enough.any() else 1.0

    def false_match_rate(self, cosine: float) -> float:
        """The estimated share of pairs of strangers' faces that are at least this alike."""
        return float(np.exp(log_ndtr(-cosine / self.spread)))


def measure_spread(vectors: np.ndarray) -> float | None:
    """The spread of strangers' cosines, from the negative ones: hardly any pair of one person has a negative cosine.

    `vectors` are unit rows, float32 (n, d), a sample of the collection. None where fewer than 1% of their pairs, or
    fewer than 100, are negative: one person's collection, a handful of faces, a recognizer whose strangers are alike.
    """
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    negative = cosines[cosines < 0]
    if len(negative) < max(_ENOUGH * len(cosines), 100):
        return None
    # rounded: BLAS sums in another order with another number of threads
    return round(TAIL * float(np.sqrt(np.mean(np.square(negative, dtype=np.float64)))), 6)


def usual_spread(dimensions: int) -> float:
    """The spread that stands in where strangers' cosines cannot be measured."""
    return TAIL * ISOTROPIC / float(np.sqrt(dimensions))


def concentration(people: int, faces: int) -> float:
    """α of a Chinese restaurant process in which `faces` make `people` groups on average; at most `faces`.

    Solves people = α log(1 + faces / α). The bound keeps the first merges of a collection possible.
    """
    low, high = 1e-3, float(faces)
    if people >= high * np.log(2):
        return high
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if middle * np.log1p(faces / middle) < people else (low, middle)
    return float(high)
