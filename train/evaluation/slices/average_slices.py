"""Divides the images of a set into slices by a column, and averages the rows of each slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from train.evaluation.options import EvaluationOptions
from train.evaluation.results.aggregate import average_systems
from train.evaluation.sets.cases import FrozenSet
from train.evaluation.slices.columns import COLUMNS, read_columns
from train.evaluation.systems.row import Row

PARTS = 3  # number of slices (ours) of a column with many different values
MOST_VALUES = 4  # a column with up to this number (ours) of different values has a slice for each value


def describe_slices(
    rows: Sequence[Row],
    frozen_set: FrozenSet,
    dataset: Path,
    lq_set: str | None,
    options: EvaluationOptions,
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Returns the averages of each slice, and the reasons for columns without slices. Returns {} if `options.slices` is
    empty.

    `rows` are the rows of an evaluation of `frozen_set`, which was read from `dataset` and `lq_set`.
    """
    if not options.slices:
        return {}
    cases, name, references, seed = frozen_set.cases, frozen_set.name, options.references, options.seed
    columns = read_columns(options.slices, cases, dataset, lq_set, name, references, seed)
    sliced, reasons = average_slices(rows, [case.face_id for case in cases], columns, metrics, seed)
    return {"slices": sliced, "not_sliced": reasons}


def average_slices(
    rows: Sequence[Row], faces: Sequence[str], columns: Mapping[str, Sequence[float]], metrics: Sequence[str], seed: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Returns the averages of each slice of each column, and the reasons why other columns have no slices.

    `columns` maps the name of a column to a value for each face of `faces`. NaN means that the face has no value. The
    result has a dict for each column: its name, the fields of `Column`, and `slices`. A slice has a `name`, its bounds
    `low` and `high`, its numbers of `images` and `people`, and its averages in `rows` (the result of
    `average_systems`). The bounds are the smallest and the largest value in the slice. Images without a value are in a
    slice without bounds.
    """
    sliced, reasons = [], {}
    for name, values in columns.items():
        parts = _cut(np.asarray(values, np.float64))
        if len(parts) < 2:
            known = np.isfinite(np.asarray(values, np.float64)).any()
            reasons[name] = "all images have the same value" if known else COLUMNS[name].missing
            continue
        slices = []
        for part in parts:
            own_faces = {faces[i] for i in part}
            own_rows = [row for row in rows if row["face_id"] in own_faces]
            own_values = [values[i] for i in part if math.isfinite(values[i])]
            low, high = (min(own_values), max(own_values)) if own_values else (None, None)
            slices.append(
                {
                    "name": _name_slice(name, low, high),
                    "low": low,
                    "high": high,
                    "images": len(own_faces),
                    "people": len({row["identity_id"] for row in own_rows}),
                    "rows": average_systems(own_rows, metrics, seed),
                }
            )
        sliced.append({"column": name, **asdict(COLUMNS[name]), "slices": slices})
    return sliced, reasons


def _cut(values: np.ndarray) -> list[np.ndarray]:
    """Returns the positions of each slice, the slice with the smallest values first. Slices are never empty.

    Equal values are in one slice. The last slice has the positions without a value.
    """
    known = values[np.isfinite(values)]
    distinct = np.unique(known)
    if len(distinct) <= MOST_VALUES:
        number = np.searchsorted(distinct, values)
    else:
        edges = np.quantile(known, np.arange(1, PARTS) / PARTS)
        number = np.searchsorted(edges, values)
    number = np.where(np.isfinite(values), number, len(distinct) + PARTS)
    return [np.flatnonzero(number == one) for one in np.unique(number)]


def _name_slice(column: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unknown"
    one = COLUMNS[column]
    unit = one.unit if one.unit == "°" else f" {one.unit}" * bool(one.unit)
    first, last = (f"{value:.{one.digits}f}" for value in (low, high))
    return f"{first}{unit}" if first == last else f"{first} to {last}{unit}"
