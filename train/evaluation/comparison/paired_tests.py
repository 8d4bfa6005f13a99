"""Test paired differences between systems, and correct the tests for many comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control, permutation_test

from train.metrics.intervals import bootstrap_unit

RESAMPLES = 9999  # number of random sign flips (ours); with up to 13 people or images, all sign flips are used
# A star marks a significant difference. On average, at most this share of the stars is wrong.
LEVEL = 0.05


def compute_p_value(differences: Sequence[float], people: Sequence[str], rng: np.random.Generator) -> float:
    """Returns the two-sided p-value of the hypothesis that the mean difference is zero.

    `differences` has a paired difference for each image, and `people` the person of each image. The test flips the
    signs of all differences of a person together (permutation test for paired samples, Fisher 1935). With fewer than
    five people, the test flips the sign of each image alone, like the bootstrap of the intervals. Raises ValueError if
    there is no difference.
    """
    values = np.asarray(differences, np.float64)
    if len(values) == 0:
        raise ValueError("There is no difference to test.")
    if not values.any():
        return 1.0
    if bootstrap_unit(people) == "people":
        person = np.unique(np.asarray(people, str), return_inverse=True)[1]
        values = np.bincount(person, values).astype(np.float64)

    def sum_values(units: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(units.sum(axis=axis))

    if len(values) < 2:
        return 1.0
    # the sum is the mean over images times the number of images, which is constant
    result = permutation_test(
        (values,), sum_values, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=rng
    )
    return float(result.pvalue)


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values adjusted by the method of Benjamini and Yekutieli (2001).

    Among all differences whose adjusted value is at most LEVEL, a share of at most LEVEL is wrong on average. The
    method also holds for tests that depend on each other, for example tests of several metrics on the same images.
    """
    return [float(value) for value in false_discovery_control(p_values, method="by")] if p_values else []
