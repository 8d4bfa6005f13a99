"""Reads the columns of a frozen set by which results can be divided into slices, such as the pose of the target."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate.faces.measure import estimate_pose, measure_sharpness
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from train.benchmark.draw_references import draw_references
from train.benchmark.frozen_benchmark import Benchmark, is_benchmark, load_benchmark
from train.data.face_measures import measure_detail
from train.data.tensors import to_tensor
from train.evaluation.sets.cases import Case
from train.metrics.psnr_ssim import psnr

DAYS_A_YEAR = 365.25
_NO_THETA = "the set has no degradation parameters"
_NO_POSE = "the set has no landmarks of its targets"
_NO_DATES = "the set has no dates of the target and of a reference"


@dataclass(frozen=True)
class Column:
    """Describes a column of a set. All columns are ours."""

    title: str
    unit: str
    digits: int  # number of digits after the decimal point
    convention: str  # how the value is computed; does not end with a period
    missing: str = ""  # why no image of a set may have a value


# fmt: off
COLUMNS: dict[str, Column] = {
    "lq_psnr": Column("degradation (PSNR of the LQ image)", "dB", 1,
        "The value is the PSNR of the LQ image to the target. A low value means a strong degradation",
        "the set has no targets"),
    "blur": Column("blur", "px", 1, "The value is the largest standard deviation of the blurs in θ", _NO_THETA),
    "downsample": Column("downsampling", "times", 1,
        "The value is the product of the factors of all downsamplings in θ", _NO_THETA),
    "noise": Column("noise", "levels", 0, "The value is the largest standard deviation of the noises in θ", _NO_THETA),
    "jpeg": Column("JPEG quality", "", 0, "The value is the lowest quality of the JPEGs in θ", _NO_THETA),
    "yaw": Column("yaw of the target", "°", 0,
        "The value is the absolute yaw of the target, from its five landmarks. 0 is a frontal face", _NO_POSE),
    "references": Column("number of references", "", 0, "The value is the number of references of the image"),
    "reference_sharpness": Column("sharpness of the references", "", 2,
        "The value is the mean sharpness of the references, as curation measures sharpness",
        "the set has no references"),
    "age_gap": Column("years to the nearest reference", "years", 1,
        "The value is the time between the dates of the target and of the reference that is nearest in time. Doubtful "
        "dates do not count", _NO_DATES),
    "detail": Column("fine detail of the target", "levels", 1,
        "The value is the standard deviation of the target's luma inside the face, from S/8 to S/4 cycles per crop of "
        "S pixels", "the set has no targets"),
}
# fmt: on


def check_columns(names: Sequence[str]) -> None:
    """Raises BadInput if a name is not a column."""
    for name in names:
        if name not in COLUMNS:
            raise BadInput(f"There is no column '{name}'. Give some of {', '.join(COLUMNS)}, or all, with --slices.")


def read_columns(
    names: Sequence[str],
    cases: Sequence[Case],
    dataset: Path,
    lq_set: str | None,
    set_name: str,
    references: int,
    seed: int,
) -> dict[str, list[float]]:
    """Returns the value of each case in each of the columns `names`. An unknown value is NaN.

    `dataset`, `lq_set`, `references` and `seed` are the arguments with which `read_frozen_set` read the cases, and
    `set_name` is the name that it returned.
    """
    facts = _read_facts(dataset, lq_set, set_name, references, seed)
    read: dict[str, Callable[[Case], float]] = {
        "lq_psnr": _measure_lq_psnr,
        "references": lambda case: float(len(case.references)),
        "reference_sharpness": lambda case: (
            float(np.mean([measure_sharpness(one) for one in case.references])) if case.references else math.nan
        ),
        "detail": _measure_target_detail,
    }
    return {
        name: [read[name](case) if name in read else facts.get(case.face_id, {}).get(name, math.nan) for case in cases]
        for name in names
    }


def _measure_lq_psnr(case: Case) -> float:
    if case.target is None:
        return math.nan
    lq, target = (to_tensor(image)[None] for image in (case.lq, case.target))
    valid = None if case.valid is None else torch.from_numpy(np.array(case.valid))[None, None]
    return psnr(lq, target, valid)[0]


def _measure_target_detail(case: Case) -> float:
    if case.target is None:
        return math.nan
    size = len(case.target)
    return measure_detail(case.target, size / 8, size / 4, 0, size)


def _read_facts(
    dataset: Path, lq_set: str | None, set_name: str, references: int, seed: int
) -> dict[str, dict[str, float]]:
    """Returns the columns that are not measured on pixels, by face id, from the ledger or from the benchmark."""
    for folder in (dataset, None if lq_set is None else Path(lq_set)):
        if folder is not None and is_benchmark(folder):
            return _read_benchmark_facts(load_benchmark(folder))
    if not (dataset / LEDGER_NAME).is_file():
        return {}
    with Ledger.open(dataset) as ledger:
        rows = ledger.query(
            "SELECT face_id, d.theta, f.yaw FROM degradations d JOIN faces f USING (face_id) WHERE d.lq_set = ?",
            set_name,
        )
        taken = dict(
            ledger.query(
                "SELECT f.face_id, p.taken FROM faces f JOIN photos p USING (photo_id) "
                "WHERE p.taken IS NOT NULL AND p.taken_doubt IS NULL"
            ).iter_rows()
        )
        drawn = draw_references(ledger, set_name, references, seed)[1]
    facts = {face: {**summarise_theta(json.loads(theta)), "yaw": abs(yaw)} for face, theta, yaw in rows.iter_rows()}
    for case in drawn:
        gaps = [
            abs((taken[case.face_id] - taken[ref]).total_seconds()) / 86400 / DAYS_A_YEAR
            for ref in case.references
            if ref in taken and case.face_id in taken
        ]
        if gaps:
            facts[case.face_id]["age_gap"] = min(gaps)
    return facts


def _read_benchmark_facts(benchmark: Benchmark) -> dict[str, dict[str, float]]:
    facts = {}
    for case in benchmark.cases:
        points = np.array(case.geometry.landmarks).reshape(5, 2) * case.geometry.photo_size
        facts[case.face] = {**summarise_theta(case.theta), "yaw": abs(estimate_pose(points)[0])}
    return facts


def summarise_theta(theta: Mapping[str, Any]) -> dict[str, float]:
    """Returns the columns of a θ (see COLUMNS). A degradation without an operation has no value for the operation."""

    def list_values(operation: str, *keys: str) -> list[float]:
        return [step[key] for step in theta["steps"] if step["op"] == operation for key in keys if key in step]

    def choose(values: Iterable[float], reduce: Callable[..., float]) -> float:
        listed = list(values)
        return float(reduce(listed)) if listed else math.nan

    return {
        "blur": choose(list_values("blur", "sigma_x", "sigma_y"), max),
        "downsample": choose(list_values("downsample", "factor"), math.prod),
        "noise": choose(list_values("noise", "sigma"), max),
        "jpeg": choose(list_values("jpeg", "quality"), min),
    }
