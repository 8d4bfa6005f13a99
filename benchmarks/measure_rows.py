"""Measures the restorers of a benchmark that compares several trainings, one row of its table after the other.

The figures of the row NAME are kept in FOLDER/NAME.json, so that an interrupted benchmark does not measure them again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from train.data.face_measures import measure_detail
from train.evaluation.evaluator import Evaluator
from train.evaluation.options import EvaluationOptions
from train.evaluation.systems.row import Row
from train.evaluation.systems.system import System


def compare_detail(image: np.ndarray, target: np.ndarray) -> float:
    """Returns the detail of an image divided by the detail of its target. The image and its target are uint8 (S, S,
    3)."""
    size = len(image)
    own, wanted = (measure_detail(one, size / 8, size / 4, 0, size) for one in (image, target))
    return own / wanted


def load_run(
    dataset: Path,
    lq_set: str,
    run: Path,
    options: EvaluationOptions,
    every: int,
    on_image: Callable[[Row, np.ndarray], None],
) -> Evaluator:
    """Returns an evaluator that has loaded a run, and that measures only every `every`-th face of the set."""
    evaluator = Evaluator(dataset, lq_set, options, on_image)
    evaluator.load_run(run)
    assert evaluator.frozen_set is not None
    evaluator.frozen_set = replace(evaluator.frozen_set, cases=evaluator.cases[::every])
    return evaluator


def measure_rows(
    dataset: Path,
    lq_set: str,
    run: Path,
    options: EvaluationOptions,
    systems: tuple[System, ...],
    every: int = 1,
    images: dict[tuple[str, str], np.ndarray] | None = None,
) -> list[Row]:
    """Returns a row for each image and each system of a run.

    The key `sharpness` has the result of `compare_detail`. Only every `every`-th face of the set is measured. A face is
    left out if a system has no row for the face. If `images` is a dict, it gets each restored face, uint8 (S, S, 3).
    The keys are the face id and the key of the system.
    """

    def add_sharpness(row: Row, image: np.ndarray) -> None:
        row["sharpness"] = compare_detail(image, targets[row["face_id"]])
        if images is not None:
            images[row["face_id"], row["key"]] = image

    evaluator = load_run(dataset, lq_set, run, options, every, add_sharpness)
    targets = {case.face_id: case.target for case in evaluator.cases}
    rows = evaluator.measure_run(run, systems, lambda *_: None)
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        keys[row["face_id"]].add(row["key"])
    return [row for row in rows if keys[row["face_id"]] == {system.key for system in systems}]


def measure_once(folder: Path, name: str, measure: Callable[[], Any]) -> None:
    """Writes the result of `measure` to FOLDER/NAME.json, unless the file exists."""
    file = folder / f"{name}.json"
    if not file.exists():
        file.write_text(json.dumps(measure()))


def read_measured(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Returns the contents of the files FOLDER/NAME.json that exist, by their names."""
    files = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
