"""Average the rows of an evaluation: means per system, and paired differences between two systems, with bootstrap
intervals.

A row has the values of one image for one system (train/evaluation/systems/row.py). An average has the means of one
system.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from degrade.sampling import make_generator
from train.evaluation.systems.row import Row
from train.metrics.intervals import MIN_UNITS, bootstrap_unit, coverage, mean_interval

Average = dict[str, Any]
Difference = dict[str, Any]


def average_systems(rows: Sequence[Row], metrics: Sequence[str], seed: int) -> list[Average]:
    """Returns the average of each system, in the order in which the systems first appear.

    An average has the keys `key`, `system`, `images`, `unmeasured`, and one key for each metric. `images` is the number
    of rows, and `unmeasured` is the number of rows that could not be measured. The value of a metric has the keys
    `mean`, `low` and `high`. The keys `images` and `people` of a value count the images that have a value, and the
    people in these images. The key `over` of a value tells whether people or images were resampled. The value of a
    metric is None if the metric has no value for any image.
    """
    averages = []
    for key in dict.fromkeys(row["key"] for row in rows):
        own = [row for row in rows if row["key"] == key]
        reasons = [row["reason"] for row in own if row["reason"] is not None]
        average: Average = {
            "key": key,
            "system": own[0]["system"],
            "images": len(own),
            "unmeasured": len(reasons),
        }
        for metric in metrics:
            with_value = [row for row in own if math.isfinite(row[metric])]
            if not with_value:
                average[metric] = None
                continue
            people = [row["identity_id"] for row in with_value]
            values = [row[metric] for row in with_value]
            interval = mean_interval(values, people, make_generator(seed, "evaluate", metric))
            average[metric] = {
                **asdict(interval),
                "images": len(with_value),
                "people": len(set(people)),
                "over": bootstrap_unit(people),
            }
        averages.append(average)
    return averages


def average_differences(
    rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]], metrics: Sequence[str], seed: int
) -> list[Difference]:
    """Returns the mean difference, first system minus second system, for each (name, first key, second key) of `pairs`.

    Only images with a row for each of the two systems count. A pair without common images is left out. The value of a
    metric has the key `mean`, and the keys `low` and `high` for the bounds of the 95% bootstrap interval
    (train/metrics/intervals.py). The key `excludes_zero` of a value is False for fewer than MIN_UNITS images. The keys
    `images` and `people` count the common images and their people. The key `people_above` is the number of people whose
    mean difference is above zero. The value of a metric is None if no image has values of both systems.
    """
    by_system: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_system.setdefault(row["key"], {})[row["face_id"]] = row
    differences = []
    for name, first, second in pairs:
        first_rows, second_rows = by_system.get(first, {}), by_system.get(second, {})
        common = [face for face in first_rows if face in second_rows]
        if not common:
            continue
        difference: Difference = {
            "difference": name,
            "keys": [first, second],
            "images": len(common),
            "people": len({first_rows[face]["identity_id"] for face in common}),
        }
        for metric in metrics:
            values = {face: first_rows[face][metric] - second_rows[face][metric] for face in common}
            finite = {face: value for face, value in values.items() if math.isfinite(value)}
            difference[metric] = _average_values(finite, first_rows, (seed, "difference", metric))
        differences.append(difference)
    return differences


def _average_values(values: dict[str, float], rows: dict[str, Row], key: tuple[int | str, ...]) -> Difference | None:
    if not values:
        return None
    people = [rows[face]["identity_id"] for face in values]
    interval = mean_interval(list(values.values()), people, make_generator(*key))
    by_person: dict[str, list[float]] = {}
    for person, value in zip(people, values.values(), strict=True):
        by_person.setdefault(person, []).append(value)
    return {
        **asdict(interval),
        "excludes_zero": interval.excludes_zero() and len(values) >= MIN_UNITS,
        "images": len(values),
        "people": len(by_person),
        "people_above": sum(float(np.mean(own)) > 0 for own in by_person.values()),
    }


def describe_interval(people: Sequence[str], people_known: bool = True) -> str:
    """Returns sentences that explain the intervals and their limits. The last sentence ends without a period.

    `people` names the person of each image. Many images of few people say little about other people. If `people_known`
    is False, the set does not say who is on each image, and `people` has a different name for each image.
    """
    unit, count = bootstrap_unit(people) if people_known else "images", len(set(people))
    if len(people) == 1:
        return "There is only one image, so the intervals have no meaning"
    units = count if unit == "people" else len(people)
    sentence = f"Intervals are 95% percentile bootstraps over {units} {unit}"
    if units < 30:  # for 30 units, `coverage` is 94%
        sentence += (
            f". With only {units} {unit}, a 95% interval of normally distributed values contains the true mean in "
            f"{coverage(units):.0%} of cases, not in 95%"
        )
    if not people_known:
        sentence += ". The set does not say who is on each image, so two images may show the same person"
    elif unit == "images":
        people_count = "is only 1 person" if count == 1 else f"are only {count} people"
        sentence += f". There {people_count}, so the intervals say nothing about other people"
    return sentence
