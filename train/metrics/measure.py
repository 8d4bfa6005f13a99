"""Measures all metrics of one restored image.

    measure, reasons = build_measure(names, judge, weights)
    row = measure(restored, target, references)             # {"psnr": 27.1, "lpips": .213, ..., "lmd": nan}
    row = measure(restored, target, references, wrong)      # also has "takeover", if `names` contains "takeover"

`names` are keys of train.metrics.registry.METRICS, or None for all metrics. `judge` has the recognizer and the detector
that measure the faces. `weights` is the folder of --weights. A metric that cannot be computed on this machine is in no
row. `reasons` maps the name of such a metric to a sentence: which file is missing, and where to put the file. If a
metric has no value for an image, the row has NaN, and METRICS[name].nan_reason says why. FID measures whole sets of
images, see train/evaluation/results/set_metrics.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceModels
from manifests.errors import BadInput, LikenessError
from train.data import landmarks68
from train.losses.backbones import find_local_file, get_file_name, load_backbone
from train.metrics.fid import inception
from train.metrics.networks import lpips_dists, no_reference
from train.metrics.psnr_ssim import describe_border
from train.metrics.readers import (
    EMBEDDED,
    LANDMARKS,
    MASKED,
    NETWORKS,
    SEARCHED,
    FaceCache,
    MeasuredCase,
    ReadMetric,
    make_reader,
)
from train.metrics.registry import METRICS

_READ_LQ = ("id_input", "id_input_adaface", "input_agreement")  # the metrics that read the LQ image


class Measure(Protocol):
    """Measures one image. All images are aligned faces, RGB uint8 (S, S, 3).

    The restored image, the target and the LQ image have the same size. If `target` is None, the metrics that read a
    target are left out. If `lq` is None, the metrics that read the LQ image are left out. `valid`, bool (S, S), is
    False for pixels of the target that do not come from its photo. There, all metrics read the pixels of the target
    instead of the restored pixels. With `only`, only the metrics in `only` are computed. Raises BadInput if an image
    has another type or shape.
    """

    def __call__(
        self,
        restored: np.ndarray,
        target: np.ndarray | None,
        references: Sequence[np.ndarray],
        wrong: Sequence[np.ndarray] = (),
        valid: np.ndarray | None = None,
        only: Collection[str] | None = None,
        lq: np.ndarray | None = None,
    ) -> dict[str, float]: ...


def explain_missing(name: str, weights: Path | None) -> str | None:
    """Returns why the metric `name` cannot be computed on this machine, and what to do, or None if it can be computed.

    Downloads nothing. Raises BadInput if no metric has this name, or if `weights` is not a folder.
    """
    check_names([name])
    if name in lpips_dists.BACKBONE:
        return lpips_dists.explain_missing(name, weights)
    if name in no_reference.WEIGHTS:
        return no_reference.explain_missing(name, weights)
    if name == "ntire":  # a sum of other metrics
        return None
    if METRICS[name].scope == "set":
        return inception.explain_missing(weights)
    if name in NETWORKS:
        return NETWORKS[name].explain_missing(weights)
    return landmarks68.explain_missing() if name in LANDMARKS else None


def find_weights(name: str, weights: Path | None) -> tuple[Path, ...]:
    """Returns the files with the weights of the metric `name`. The judge's files and missing files are left out.

    Raises BadInput if `weights` is not a folder.
    """
    if name in lpips_dists.BACKBONE:
        file = find_local_file(get_file_name(lpips_dists.BACKBONE[name]), weights)
    elif name in no_reference.WEIGHTS:
        file = find_local_file(no_reference.WEIGHTS[name].file, weights, no_reference.WEIGHTS[name].cache)
    elif METRICS[name].scope == "set" and name != "ntire":
        file = inception.find_inception(weights)
    elif name in NETWORKS:
        file = NETWORKS[name].find_file(weights)
    else:
        file = landmarks68.find_predictor() if name in LANDMARKS else None
    return () if file is None else (file,)


def describe_convention(name: str, border: int) -> str:
    """Returns a text that says how a metric is computed. The text does not end with a period. `border` is as in
    `build_measure`."""
    convention = METRICS[name].convention
    return f"{convention}. {describe_border(border)}" if name in MASKED else convention


def reads_references(name: str) -> bool:
    """Returns whether a metric compares an image with its references."""
    return "references" in EMBEDDED.get(name, ())


def reads_target(name: str) -> bool:
    """Returns whether a metric compares an image with its target."""
    of_sets = ("fid_folder", "fid_statistics", "ntire")
    return name not in (*no_reference.WEIGHTS, *_READ_LQ, *of_sets, "qalign", "id_references", "face_restored")


def reads_lq(name: str) -> bool:
    """Returns whether a metric compares an image with its LQ image."""
    return name in _READ_LQ


def reads_judge(name: str) -> bool:
    """Returns whether the judge's embeddings or landmarks change the value of a metric."""
    return name in EMBEDDED or name in SEARCHED


def check_names(names: Sequence[str]) -> None:
    """Raises BadInput if one of `names` is not the name of a metric."""
    for name in names:
        if name not in METRICS:
            raise BadInput(f"There is no metric '{name}'; the metrics are {', '.join(METRICS)}.")


def select_names(
    names: Iterable[str], has_wrong: bool, only: Collection[str] | None, has_target: bool = True, has_lq: bool = False
) -> list[str]:
    """Returns the metrics of `names` that a call of a Measure computes.

    `has_wrong`, `has_target` and `has_lq` say whether the call has wrong references, a target and an LQ image. If
    `only` is given, metrics that are not in `only` are left out.
    """
    return [
        name
        for name in names
        if (has_wrong or METRICS[name].scope != "wrong")
        and (has_target or not reads_target(name))
        and (has_lq or not reads_lq(name))
        and (only is None or name in only)
    ]


def build_measure(
    names: Sequence[str] | None,
    judge: FaceModels,
    weights: Path | None,
    most_references: int | None = None,
    load_score: Callable[[str], no_reference.Score] | None = None,
    border: int = 0,
    faces: FaceCache | None = None,
) -> tuple[Measure, dict[str, str]]:
    """Returns the function that measures one image, and the reason for each missing metric (see the top of this file).

    An image is compared with its first `most_references` references, or with all references if `most_references` is
    None. The metrics of MASKED ignore `border` pixels at each side of an image. `load_score` loads a metric of
    no_reference.WEIGHTS; without it, `load_no_reference` is used. `faces` is a cache of the judge's results that
    several functions can share.

    Raises BadInput if one of `names` is not the name of a metric, or if `weights` is not a folder.
    """
    metrics = list(METRICS) if names is None else list(dict.fromkeys(names))
    reasons = {name: reason for name in metrics if (reason := explain_missing(name, weights)) is not None}
    faces, load = faces or FaceCache(judge), cache(partial(load_backbone, folder=weights))
    load_score = load_score or partial(no_reference.load_no_reference, weights=weights)
    readers: dict[str, ReadMetric] = {}
    for name in metrics:
        if name in reasons or METRICS[name].scope == "set":
            continue
        try:
            readers[name] = make_reader(name, faces, weights, load, load_score, border)
        except (LikenessError, FaceModelError) as error:
            reasons[name] = str(error)

    def measure(
        restored: np.ndarray,
        target: np.ndarray | None,
        references: Sequence[np.ndarray],
        wrong: Sequence[np.ndarray] = (),
        valid: np.ndarray | None = None,
        only: Collection[str] | None = None,
        lq: np.ndarray | None = None,
    ) -> dict[str, float]:
        references = references[:most_references]
        compared = {"target": target, "LQ image": lq}
        for image in (restored, *references, *wrong, *(image for image in compared.values() if image is not None)):
            _check_image(image)
        for what, other in compared.items():
            if other is not None and restored.shape != other.shape:
                raise BadInput(
                    f"The restored image has {restored.shape[1]} x {restored.shape[0]} pixels, but its {what} has "
                    f"{other.shape[1]} x {other.shape[0]}: resize the restored image to the size of the {what}."
                )
        restored = cover_invalid(restored, target, valid)
        case = MeasuredCase(restored, target, tuple(references), tuple(wrong), valid, lq)
        return {
            name: readers[name](case) if is_large_enough(name, len(restored), border) else math.nan
            for name in select_names(readers, bool(wrong), only, target is not None, lq is not None)
        }

    return measure, reasons


def check_border(border: int, side: int, names: Collection[str]) -> None:
    """Raises BadInput if PSNR and SSIM cannot cut off `border` pixels at each side of an image of `side` x `side`
    pixels, or if no metric of `names` cuts off a border."""
    if border and MASKED.keys().isdisjoint(names):
        raise BadInput(f"Only the metrics {', '.join(MASKED)} read --crop-border. Add psnr to --metrics, for example.")
    if border and not is_large_enough("ssim", side, border):
        most = max(0, (side - METRICS["ssim"].min_side) // 2)
        raise BadInput(f"--crop-border {border} leaves too little of images of {side} px. Give at most {most}.")


def is_large_enough(name: str, side: int, border: int) -> bool:
    """Returns whether a metric has a value for an image of `side` x `side` pixels.

    `border` is as in `build_measure`.
    """
    return side - (2 * border if name in MASKED else 0) >= max(1, METRICS[name].min_side)


def cover_invalid(restored: np.ndarray, target: np.ndarray | None, valid: np.ndarray | None) -> np.ndarray:
    """Returns the restored image with the pixels of the target where `valid` is False."""
    return restored if valid is None or target is None else np.where(valid[:, :, None], restored, target)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise BadInput(
            f"Only a square RGB image of type uint8 can be measured, but this image has the type {image.dtype} and the "
            f"shape {image.shape}: restore the image again, or convert it."
        )
