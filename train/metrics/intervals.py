"""Means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

RESAMPLES = 2000
# Fewer people than this say too little about people to resample them; then images are resampled. And of fewer images no
# difference is marked: three that happen to lie on one side would be (ours)
FEWEST = 5


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95% bootstrap interval (percentile method, Efron 1979)."""

    mean: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap_unit(people: Sequence[str]) -> str:
    """What is resampled: people, since photos of one person are alike, or images where there are too few people."""
    return "people" if len(set(people)) >= FEWEST else "images"


def coverage(units: int) -> float:
    """What share of such intervals really hold the mean of `units` normal values, .95 in the limit (ours).

    The bootstrap's spread is the sample's with n and not n - 1 below the line, and its quantiles are the normal's and
    not Student's: 2 T(1.96 sqrt((n-1)/n)) - 1 with n - 1 degrees of freedom. About .85 for 5 people, .93 for 20.
    """
    if units < 2:
        return 0.0
    return float(2 * t.cdf(1.96 * ((units - 1) / units) ** 0.5, units - 1) - 1)


def mean_interval(values: Sequence[float], people: Sequence[str], rng: np.random.Generator) -> Interval:
    """The mean of `values` over images with its interval; `people` names the person of each image."""
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 0:
        raise ValueError("nothing to average")
    over_people = bootstrap_unit(people) == "people"
    number: dict[str, int] = {}  # people by where they first appear: a draw follows from faces and not from names
    by_person = [number.setdefault(person, len(number)) for person in people]
    unit = np.array(by_person) if over_people else np.arange(len(numbers))
    totals, counts = np.bincount(unit, numbers), np.bincount(unit)
    drawn = rng.integers(0, len(counts), (RESAMPLES, len(counts)))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(numbers.mean()), float(low), float(high))
