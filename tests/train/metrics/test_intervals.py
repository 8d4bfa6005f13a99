"""Tests bootstrap intervals: their width, their units and their seeds."""

from __future__ import annotations

import numpy as np
import pytest

from train.metrics.intervals import Interval, bootstrap_unit, coverage, mean_interval


def test_an_interval_holds_its_mean_and_narrows_with_more_images() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(5, 1, 400)
    wide = mean_interval(values[:20].tolist(), ["a"] * 20, np.random.default_rng(0))
    narrow = mean_interval(values.tolist(), ["a"] * 400, np.random.default_rng(0))
    assert wide.low <= wide.mean <= wide.high and narrow.low <= narrow.mean <= narrow.high
    assert narrow.high - narrow.low < wide.high - wide.low
    # The length of the interval is that of the normal approximation.
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_people_are_resampled_where_there_are_enough_of_them() -> None:
    people = [f"p{i // 10}" for i in range(100)]
    alike = [float(i // 10) for i in range(100)]  # all ten photos of a person have the same value
    assert bootstrap_unit(people) == "people" and bootstrap_unit(people[:40]) == "images"
    over_people = mean_interval(alike, people, np.random.default_rng(0))
    over_images = mean_interval(alike, ["one"] * 100, np.random.default_rng(0))
    assert over_people.high - over_people.low > 2 * (over_images.high - over_images.low)
    again = mean_interval(alike, people, np.random.default_rng(0))
    assert again == over_people


def test_an_interval_excludes_zero_on_either_side_only() -> None:
    assert Interval(1, 0.5, 2).excludes_zero() and Interval(-1, -2, -0.5).excludes_zero()
    assert not Interval(0.1, -0.5, 2).excludes_zero() and not Interval(0, 0, 0).excludes_zero()


def test_how_often_an_interval_over_few_people_holds_is_what_trying_it_out_says() -> None:
    rng = np.random.default_rng(0)
    people = [f"p{i}" for i in range(5)]
    found = [mean_interval(rng.normal(size=5).tolist(), people, rng) for _ in range(600)]
    share = float(np.mean([one.low <= 0 <= one.high for one in found]))
    assert coverage(5) == pytest.approx(share, abs=0.05)
    assert 0 == coverage(1) < coverage(2) < coverage(20) < coverage(1000) < 0.951
