"""Rows of an evaluation -> its table and its paired differences, each with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from degrade.sampling import make_generator
from train.metrics.intervals import FEWEST, bootstrap_unit, coverage, mean_interval

Row = dict[str, Any]


def average_systems(rows: Sequence[Row], metrics: Sequence[str], seed: int) -> list[Row]:
    """The mean and interval of every metric for every system, in order of first appearance.

    A metric's entry holds mean, low, high, `images` and `people`, how many have a figure, and `over`, what was
    resampled; it is None where none has. `images` of a line counts its rows, `unmeasured` those of them that could not
    be measured at all.
    """
    found = []
    for key in dict.fromkeys(row["key"] for row in rows):
        own = [row for row in rows if row["key"] == key]
        reasons = [row["reason"] for row in own if row["reason"] is not None]
        line: Row = {"key": key, "system": own[0]["system"], "images": len(own), "unmeasured": len(reasons)}
        for metric in metrics:
            some = [row for row in own if math.isfinite(row[metric])]
            if not some:
                line[metric] = None
                continue
            people = [row["identity_id"] for row in some]
            interval = mean_interval([row[metric] for row in some], people, make_generator(seed, "evaluate", metric))
            line[metric] = {
                **asdict(interval),
                "images": len(some),
                "people": len(set(people)),
                "over": bootstrap_unit(people),
            }
        found.append(line)
    return found


def average_differences(
    rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]], metrics: Sequence[str], seed: int
) -> list[Row]:
    """For each (name, key, key) of `pairs` and each metric, the mean over images of the first minus the second.

    Over the images that have both figures; a pair without any image is left out. A metric's entry holds mean, low, high
    (95% percentile bootstrap, see intervals.bootstrap_unit), `excludes_zero` (never of fewer than FEWEST images),
    `images`, `people`, and `people_above`: of how many of them the mean difference is above zero; None where no image
    has both.
    """
    by_system: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_system.setdefault(row["key"], {})[row["face_id"]] = row
    found = []
    for name, first, second in pairs:
        ours, theirs = by_system.get(first, {}), by_system.get(second, {})
        both = [face for face in ours if face in theirs]
        if not both:
            continue
        line: Row = {
            "difference": name,
            "keys": [first, second],
            "images": len(both),
            "people": len({ours[face]["identity_id"] for face in both}),
        }
        for metric in metrics:
            apart = {face: ours[face][metric] - theirs[face][metric] for face in both}
            line[metric] = _difference({face: value for face, value in apart.items() if math.isfinite(value)}, ours, (
                seed, "difference", metric
            ))  # fmt: skip
        found.append(line)
    return found


def _difference(values: dict[str, float], rows: dict[str, Row], key: tuple[int | str, ...]) -> Row | None:
    if not values:
        return None
    people = [rows[face]["identity_id"] for face in values]
    interval = mean_interval(list(values.values()), people, make_generator(*key))
    own: dict[str, list[float]] = {}
    for person, value in zip(people, values.values(), strict=True):
        own.setdefault(person, []).append(value)
    return {
        **asdict(interval),
        "excludes_zero": interval.excludes_zero() and len(values) >= FEWEST,
        "images": len(values),
        "people": len(own),
        "people_above": sum(float(np.mean(some)) > 0 for some in own.values()),
    }


def describe_interval(people: Sequence[str]) -> str:
    """What the intervals are, and how far they can be trusted: few people say little, however many images they have."""
    unit, count = bootstrap_unit(people), len(set(people))
    if len(people) == 1:
        return "One image alone: an interval says nothing"
    units = count if unit == "people" else len(people)
    told = f"95% percentile bootstrap over {units} {unit}"
    if units < 30:  # of 30 .94 (ours)
        told += f", few: of normal values such intervals hold {coverage(units):.0%}, not 95%"
    if unit == "images":
        told += f"; of {count} {'person' if count == 1 else 'people'} only, so nothing is said of other people"
    return told
