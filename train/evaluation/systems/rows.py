"""Measure each image for each system. A row has the values of one image for one system.

The measured image is an image that the restorer restores, a file that another method restored, or the LQ image itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.pictures.untrusted_images import Read
from train.evaluation.sets.cases import Case
from train.evaluation.systems.restore_case import RestoredCase
from train.evaluation.systems.restored_folders import find_wrong_size
from train.evaluation.systems.row import Row
from train.evaluation.systems.system import System, choose_photos
from train.metrics.measure import Measure, cover_invalid
from train.metrics.registry import METRICS

# A function of type OnImage is called with each row and its image, uint8 (S, S, 3). Where the crop extends
# beyond the photo, the image has the target's pixels.
OnImage = Callable[[Row, np.ndarray], None]


def measure_systems(
    case: Case,
    restorations: Mapping[tuple[str, str], RestoredCase],
    measure: Measure,
    systems: Sequence[System],
    metrics: Sequence[str],
    on_image: OnImage = lambda *_: None,
) -> Iterator[Row]:
    """Yields a row for each system. A system has no row if the case has no references for the system.

    `restorations` has the restoration of each case for each system, by the face id of the case and the key of the
    system (train/evaluation/cache/cached_restorations.py). The column `left_out` counts the references that were left
    out, because they do not seem to show the person of the LQ image.
    """
    for system in systems:
        if not system.restores:
            yield measure_input(case, measure, metrics, on_image)
            continue
        if choose_photos(case, system) is None:
            continue
        row, restored = _start_row(case, system.key, system.name), restorations[case.face_id, system.key]
        row["references"], row["left_out"] = restored.references, restored.left_out
        if system.source == "wrong" and restored.references > restored.left_out:
            row["shown_identity_id"] = case.wrong_identity_id
        if restored.image is None:
            yield _finish_unmeasured(row, "the restored image contains NaN or infinity", metrics)
        else:
            yield _finish_measured(row, case, restored.image, measure, metrics, on_image, case.lq)


def measure_input(case: Case, measure: Measure, metrics: Sequence[str], on_image: OnImage = lambda *_: None) -> Row:
    """Returns the row of the LQ image. The row has no values of metrics that compare an image with the LQ image."""
    row = _start_row(case, "lq", "LQ input")
    return _finish_measured(row, case, case.lq, measure, metrics, on_image, lq=None)


def measure_file(
    case: Case,
    path: Path | None,
    key: str,
    name: str,
    measure: Measure,
    metrics: Sequence[str],
    read: Read,
    on_image: OnImage = lambda *_: None,
) -> Row:
    """Returns the row of an image that another method restored, with a reason if the image cannot be measured."""
    row = _start_row(case, key, name)
    if path is None:
        return _finish_unmeasured(row, "the file is missing", metrics)
    try:
        image = read(path)
    except BadInput as error:
        return _finish_unmeasured(row, str(error), metrics)
    if (reason := find_wrong_size(path, image, case)) is not None:
        return _finish_unmeasured(row, reason, metrics)
    return _finish_measured(row, case, image, measure, metrics, on_image, case.lq)


def _start_row(case: Case, key: str, name: str) -> Row:
    return {
        "face_id": case.face_id,
        "identity_id": case.identity_id,
        "key": key,
        "system": name,
        "references": 0,
        "left_out": 0,
        "shown_identity_id": case.identity_id,
        "reason": None,
    }


def _finish_measured(
    row: Row,
    case: Case,
    image: np.ndarray,
    measure: Measure,
    metrics: Sequence[str],
    on_image: OnImage,
    lq: np.ndarray | None,
) -> Row:
    values: Mapping[str, float] = measure(image, case.target, case.references, case.wrong, case.valid, lq=lq)
    on_image(row, cover_invalid(image, case.target, case.valid))
    return row | {name: values.get(name, math.nan) for name in metrics}


def _finish_unmeasured(row: Row, reason: str, metrics: Sequence[str]) -> Row:
    return row | dict.fromkeys(metrics, math.nan) | {"reason": reason}


def select_image_metrics(names: Sequence[str]) -> list[str]:
    """Returns the metrics that have a value for each image, not only for a whole set."""
    return [name for name in names if METRICS[name].scope != "set"]
