"""Computes means with 95% bootstrap intervals over people or images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr  # scipy.stats has the same function, but its import takes a second

RESAMPLES = 2000
# If there are fewer people than this number (ours), images are resampled instead of people. If there are fewer images
# than this number, no difference counts as different from zero, because the differences of few images can agree by
# chance.
MIN_UNITS = 5


@dataclass(frozen=True)
class Interval:
    """Holds a mean and the bounds of its 95% bootstrap interval (percentile method, Efron 1979)."""

    mean: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Returns whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap_unit(people: Sequence[str]) -> str:
    """Returns the unit that is resampled, "people" or "images"."""
    return "people" if len(set(people)) >= MIN_UNITS else "images"


def coverage(units: int) -> float:
    """Returns the share of 95% bootstrap intervals that contain the true mean, for samples of `units` normal values.
    The formula is ours.

    The share tends to .95 for many units. The share is about .85 for 5 units and .93 for 20 units. Let n be the number
    of units. The variance of a bootstrap divides by n, not by n - 1. The quantiles of a bootstrap come from the normal
    distribution, not from Student's distribution. The share is therefore 2 T(1.96 sqrt((n-1)/n)) - 1, where T is the
    distribution function of Student's distribution with n - 1 degrees of freedom.
    """
    if units < 2:
        return 0.0
    return float(2 * stdtr(units - 1, 1.96 * ((units - 1) / units) ** 0.5) - 1)


def mean_interval(values: Sequence[float], people: Sequence[str], rng: np.random.Generator) -> Interval:
    """Returns the mean of `values` over images with its interval. `people` names the person of each image.

    Raises ValueError if there is no value.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 0:
        raise ValueError("There is no value to average.")
    over_people = bootstrap_unit(people) == "people"
    # People get numbers in the order of their first image, so the resampling does not depend on the names of people.
    numbering: dict[str, int] = {}
    by_person = [numbering.setdefault(person, len(numbering)) for person in people]
    unit = np.array(by_person) if over_people else np.arange(len(numbers))
    totals, counts = np.bincount(unit, numbers), np.bincount(unit)
    # each row is one resample; a resample draws as many units as the data have, with repetition
    draws = rng.integers(0, len(counts), (RESAMPLES, len(counts)))
    means = totals[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(numbers.mean()), float(low), float(high))
