"""Computes the log odds that two groups of faces show one person, from the cosine of their centres.

Strangers are faces, or groups of faces, of different people. The cosines between strangers are spread around 0. The
standard deviation of the cosines between strangers is called the spread. The spread does not depend on the sizes of the
groups, and is measured without labels. The cosine between two groups of one person rises with the sizes of the groups.

The prior odds follow a Chinese restaurant process with concentration α. The prior odds that a single face joins a group
of n faces are n / α. The prior odds that a group of m faces joins a group of n faces are n / (m^1.5 α) (ours). A
collection with more people has a larger α. If most people of a collection have one photo, α is large, and two single
faces must be very similar to merge.

All constants in this file are ours. The page docs/grouping.md names the photos on which we chose the constants, and
shows how much the constants matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtri

# The spread of the cosines between strangers is measured on the negative cosines. Because of relatives, look-alikes and
# poor photos, the positive cosines are more widely spread. The measured spread is therefore multiplied by TAIL_FACTOR.
TAIL_FACTOR = 1.25
# In a large collection, hardly any pair of faces is a pair of one person, so the spread of the positive cosines is
# measured instead (`measure_tail_factor`). We compared the highest cosines between strangers (a share of _TAIL_SHARE)
# with a normal distribution. On web photos, the spread of these cosines is 1.184 times the spread of the negative
# cosines. The very highest cosines are still more widely spread, so TAIL_FACTOR is 1.056 (ours) times 1.184.
_TAIL_SHARE, _TAIL_MARGIN = 1e-3, 1.056
MIN_TAIL_FACTOR = 1.1  # The number is ours: every collection has relatives and look-alikes.
# If a collection has too few negative cosines, the spread is assumed to be TAIL_FACTOR * RANDOM_FACTOR / sqrt(d). The
# number 1 / sqrt(d) is the spread of random directions in d dimensions. On web photos, we measured .096 with an ArcFace
# model of 128 dimensions, before the multiplication by TAIL_FACTOR.
RANDOM_FACTOR = 1.09
# At the start, the cosines between two faces of one person are assumed to have the mean MEAN_WITHIN and the standard
# deviation SPREAD_WITHIN. We measured a standard deviation of .15 to .21 between single faces of one person. Between
# groups of one person, the standard deviation is nearly as large as between single faces, because different ages and
# poor photos form separate groups.
MEAN_WITHIN, SPREAD_WITHIN = 0.55, 0.16
# The prior odds of two groups of m and n faces, m <= n, are n / (m^CAUTION α). A wrong merge of two large groups, for
# example of sisters, does more harm than a missing merge, because a wrong merge makes many wrong pairs of faces.
CAUTION = 1.5
# During merging, the groups contain only the most similar faces of each person. The mean cosine within the groups is
# therefore too high by SELECTION_BIAS.
SELECTION_BIAS = 0.03
MIN_MEAN_WITHIN = 0.2  # If the mean cosine within people is lower, the recognizer cannot distinguish people.
SAMPLE_SIZE = 4096  # Number of faces on which the spread of the cosines between strangers is measured.
# If the share of negative cosines is smaller than _MIN_NEGATIVE_SHARE, the spread cannot be measured.
_MIN_NEGATIVE_SHARE = 0.01


@dataclass(frozen=True)
class Evidence:
    """The parameters of the odds, which are calibrated on a collection."""

    # Standard deviation of the cosines between strangers, times TAIL_FACTOR. A large collection has a measured tail
    # factor, which takes the place of TAIL_FACTOR.
    spread: float
    mean_within: float  # Mean cosine of two faces of one person.

    def compute_log_odds(self, cosine: np.ndarray, mean_cosine: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Returns the log odds that groups of `a` and `b` faces show one person, without the term -log α.

        `cosine` is the cosine of the centres. All arrays are float64 (m,). `mean_cosine` is not used, but every score
        function of `agglomerate.py` must have the parameter `mean_cosine`.
        """
        small, large = np.minimum(a, b), np.maximum(a, b)
        # A centre is the mean of noisy embeddings, so the expected cosine of two centres of one person rises with the
        # sizes of the groups.
        norms = (self.mean_within + (1 - self.mean_within) / a) * (self.mean_within + (1 - self.mean_within) / b)
        expected = self.mean_within / np.sqrt(norms)
        # The log density within a person is a normal log density below `expected`, and constant above `expected`. The
        # log density between strangers is a normal log density above 0, and constant below 0.
        same = -0.5 * (np.minimum(cosine - expected, 0) / SPREAD_WITHIN) ** 2 - np.log(SPREAD_WITHIN)
        strangers = -0.5 * (np.maximum(cosine, 0) / self.spread) ** 2 - np.log(self.spread)
        return np.asarray(same - strangers + np.log(large) - CAUTION * np.log(small))

    def find_threshold(self, alpha: float) -> float:
        """Returns the lowest cosine at which two single faces are one person, or 1 if no cosine is high enough."""
        cosines = np.linspace(0, 1, 10001)
        one = np.ones(1)
        enough = self.compute_log_odds(cosines, cosines, one, one) >= np.log(alpha)
        return float(cosines[enough.argmax()]) if enough.any() else 1.0

    def estimate_false_match_rate(self, cosine: float) -> float:
        """Returns the estimated share of the pairs of strangers that have a cosine of at least `cosine`."""
        return float(np.exp(log_ndtr(-cosine / self.spread)))


def measure_spread(vectors: np.ndarray) -> float | None:
    """Returns the spread of the cosines between strangers, measured on the negative cosines of a sample.

    `vectors` are unit rows, float32 (n, d). Two faces of one person hardly ever have a negative cosine. Returns None if
    fewer than 1% of the pairs, or fewer than 100 pairs, have a negative cosine. A collection of one person or of few
    faces, for example, has too few negative cosines. If a recognizer gives high cosines to all strangers, every
    collection has too few negative cosines.
    """
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    negative = cosines[cosines < 0]
    if len(negative) < max(_MIN_NEGATIVE_SHARE * len(cosines), 100):
        return None
    # The result is rounded, because the order of the sums in BLAS depends on the number of threads.
    return round(TAIL_FACTOR * float(np.sqrt(np.mean(np.square(negative, dtype=np.float64)))), 6)


def measure_tail_factor(vectors: np.ndarray, spread: float) -> float:
    """Returns the spread of the positive cosines between strangers, divided by the spread of the negative cosines.

    `vectors` are a sample of the unit rows of a large collection, float32 (n, d), and `spread` is the result of
    `measure_spread`. The result replaces TAIL_FACTOR. The result is at least MIN_TAIL_FACTOR and at most TAIL_FACTOR.
    If the collection has few people with many photos, many high cosines come from two faces of one person. In this
    case, the result is TAIL_FACTOR, the cautious value.
    """
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    in_spreads = float(np.quantile(cosines, 1 - _TAIL_SHARE)) / (spread / TAIL_FACTOR)
    # The result is rounded, because the order of the sums in BLAS depends on the number of threads.
    return round(min(max(_TAIL_MARGIN * in_spreads / float(-ndtri(_TAIL_SHARE)), MIN_TAIL_FACTOR), TAIL_FACTOR), 4)


def estimate_spread(dimensions: int) -> float:
    """Returns the assumed spread of the cosines between strangers.

    The assumed spread is used if `measure_spread` returns None.
    """
    return TAIL_FACTOR * RANDOM_FACTOR / float(np.sqrt(dimensions))


def calibrate_on_people(vectors: np.ndarray, people: Sequence[str]) -> tuple[float, float] | None:
    """Returns the lowest cosine at which two single faces of this collection are one person, and the estimated share of
    the pairs of strangers that reach this cosine.

    `vectors` are unit rows, float32 (n, d), and `people` names the person of each row. A larger collection has more
    pairs of strangers, so this lowest cosine is higher. Returns None if the spread cannot be measured
    (`measure_spread`), or if nobody has two faces.
    """
    sample = np.unique(np.linspace(0, len(vectors) - 1, min(SAMPLE_SIZE, len(vectors))).astype(np.int64))
    spread = measure_spread(vectors[sample])
    names, person, count = np.unique(np.asarray(people, str), return_inverse=True, return_counts=True)
    pairs = float((count * (count - 1)).sum())
    if spread is None or pairs == 0:
        return None
    # the sum of all cosines inside a person is the square of the length of the sum of the person's rows
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, person, vectors)
    mean_within = max(float((np.square(sums).sum() - len(vectors)) / pairs), MIN_MEAN_WITHIN)
    evidence = Evidence(spread, mean_within)
    threshold = round(evidence.find_threshold(solve_concentration(len(names), len(vectors))), 4)
    return threshold, float(f"{evidence.estimate_false_match_rate(threshold):.2g}")


def solve_concentration(people: int, faces: int) -> float:
    """Returns the α for which a Chinese restaurant process with `faces` faces has `people` groups on average.

    The function solves people = α log(1 + faces / α) by bisection. The result is at most `faces`. At the start, nearly
    every face is a separate group. Without the bound of `faces`, α would be so large at the start that no groups merge.
    """
    low, high = 1e-3, float(faces)
    if people >= high * np.log(2):
        return high
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if middle * np.log1p(faces / middle) < people else (low, middle)
    return float(high)
