"""Log odds that two groups of faces show one person, from the cosine of the centres of the groups.

The cosines of strangers are spread around 0. Their standard deviation does not depend on the sizes of the groups, and
it is measured without labels. The cosines within a person rise with the sizes of the groups.

The prior odds follow a Chinese restaurant process with concentration α. A single face joins a group of b faces with
prior odds b / α. A group of a faces joins a group of b faces with prior odds b / (a^1.5 α) (ours). α grows with the
number of people. If most people of a collection have one photo, α is large and two single faces must be very alike.

All constants in this file are ours. docs/grouping.md says which photos they were chosen on and how much they matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

# The spread of strangers' cosines is measured on their negative half. Relatives, look-alikes and poor photos make the
# upper half wider, so the measured spread is multiplied by this factor.
TAIL_FACTOR = 1.25
# The spread of strangers' cosines is this factor times 1 / sqrt(d), the spread of random directions in d dimensions.
# Measured with ArcFace, 128 dimensions, on web photos: .096. Used if a collection has too few negative cosines.
RANDOM_FACTOR = 1.09
# The mean cosine of two faces of one person before any group exists, and the spread of these cosines. Between single
# faces the spread is .15 to .21. Ages and poor photos form groups of their own, so between groups it is hardly smaller.
MEAN_WITHIN, SPREAD_WITHIN = 0.55, 0.16
# The prior odds of two groups of a and b faces, a <= b, are b / (a^CAUTION α). A wrong merge of two large groups
# (sisters, look-alikes) makes more wrong pairs of faces than a missing merge leaves out.
CAUTION = 1.5
# The groups that exist at a time hold the more alike faces of each person. Their mean cosine is too high by this much.
SELECTION_BIAS = 0.03
MIN_MEAN_WITHIN = 0.2  # with a lower mean cosine within people, a recognizer cannot tell people apart
SAMPLE_SIZE = 4096  # faces on which the spread of strangers' cosines is measured
# If the share of negative cosines is below this, the collection holds too few strangers to measure their spread.
_MIN_NEGATIVE_SHARE = 0.01


@dataclass(frozen=True)
class Evidence:
    """The parameters of the odds, calibrated on a collection."""

    spread: float  # standard deviation of strangers' cosines, times TAIL_FACTOR
    mean_within: float  # mean cosine of two faces of one person

    def compute_log_odds(self, cosine: np.ndarray, mean_cosine: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Returns the log odds that groups of `a` and `b` faces show one person, without the term -log α.

        `cosine` is the cosine of the centres. All arrays are float64 (m,). `mean_cosine` is not used: the function has
        this parameter because every score of `agglomerate.py` has it.
        """
        small, large = np.minimum(a, b), np.maximum(a, b)
        # a centre is the mean of noisy faces, so the expected cosine of two centres of one person rises with the sizes
        norms = (self.mean_within + (1 - self.mean_within) / a) * (self.mean_within + (1 - self.mean_within) / b)
        expected = self.mean_within / np.sqrt(norms)
        # Normal log densities. The density within a person falls only below `expected`, the density between strangers
        # falls only above 0.
        same = -0.5 * (np.minimum(cosine - expected, 0) / SPREAD_WITHIN) ** 2 - np.log(SPREAD_WITHIN)
        strangers = -0.5 * (np.maximum(cosine, 0) / self.spread) ** 2 - np.log(self.spread)
        return np.asarray(same - strangers + np.log(large) - CAUTION * np.log(small))

    def find_threshold(self, alpha: float) -> float:
        """Returns the lowest cosine that makes two single faces one person, or 1 if no cosine does."""
        cosines = np.linspace(0, 1, 10001)
        one = np.ones(1)
        enough = self.compute_log_odds(cosines, cosines, one, one) >= np.log(alpha)
        return float(cosines[enough.argmax()]) if enough.any() else 1.0

    def estimate_false_match_rate(self, cosine: float) -> float:
        """Returns the estimated share of pairs of strangers' faces that have this cosine or a higher one."""
        return float(np.exp(log_ndtr(-cosine / self.spread)))


def measure_spread(vectors: np.ndarray) -> float | None:
    """Returns the spread of strangers' cosines, measured on the negative cosines of a sample of the collection.

    `vectors` are unit rows, float32 (n, d). Hardly any pair of faces of one person has a negative cosine. Returns None
    if fewer than 1% of the pairs, or fewer than 100 pairs, have a negative cosine. Examples: a collection of one
    person, a handful of faces, a recognizer that gives all strangers high cosines.
    """
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    negative = cosines[cosines < 0]
    if len(negative) < max(_MIN_NEGATIVE_SHARE * len(cosines), 100):
        return None
    # rounded, because BLAS sums in another order with another number of threads
    return round(TAIL_FACTOR * float(np.sqrt(np.mean(np.square(negative, dtype=np.float64)))), 6)


def estimate_spread(dimensions: int) -> float:
    """Returns the spread of strangers' cosines to assume if `measure_spread` returns None."""
    return TAIL_FACTOR * RANDOM_FACTOR / float(np.sqrt(dimensions))


def solve_concentration(people: int, faces: int) -> float:
    """Returns the α with which a Chinese restaurant process of `faces` faces makes `people` groups on average.

    Solves people = α log(1 + faces / α) by bisection. The result is at most `faces`. Without this bound, α would be too
    large for any merge while nearly every face is a group of its own.
    """
    low, high = 1e-3, float(faces)
    if people >= high * np.log(2):
        return high
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if middle * np.log1p(faces / middle) < people else (low, middle)
    return float(high)
