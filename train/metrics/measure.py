"""One restored image, measured in every way that can be had here.

    measure, reasons = build_measure(names, judge, weights)
    row = measure(restored, target, references)             # {"psnr": 27.1, "lpips": .213, ..., "lmd": nan}
    row = measure(restored, target, references, wrong)      # with "takeover", if asked for

`names` are keys of train.metrics.registry.METRICS, None for all; `judge` is the recognizer and detector that looks at
the faces; `weights` is --weights. `reasons` has, for every metric that cannot be had, what to put where in one
sentence: such a metric is in no row. A row has NaN where this one image has no figure; METRICS[name].nan_reason says
what that means, so it can be counted and shown, and `face_restored` counts faces that were not found. FID is of a set:
see train.metrics.fid.fid, with `explain_missing` to ask first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceModels
from manifests.errors import BadInput, LikenessError
from train.backbones import load_backbone
from train.data.tensors import to_tensor
from train.metrics import deg_recognizer, fid, landmarks, lpips_dists, no_reference
from train.metrics.identity import SAME_IMAGE, angle_degrees, embedding, id_references, id_target
from train.metrics.landmarks import (
    EYES,
    MOUTH,
    affine_change,
    affine_distance,
    find_5_points,
    find_68_points,
    point_distance,
)
from train.metrics.psnr_ssim import ms_ssim, psnr, ssim
from train.metrics.reference_copying import copy_ratio, takeover
from train.metrics.registry import METRICS


class Measure(Protocol):
    """Pictures are aligned faces, RGB uint8 (S, S, 3), restored and target of one size. Raises BadInput for others."""

    def __call__(
        self,
        restored: np.ndarray,
        target: np.ndarray,
        references: Sequence[np.ndarray],
        wrong: Sequence[np.ndarray] = (),
    ) -> dict[str, float]: ...


def explain_missing(name: str, weights: Path | None) -> str | None:
    """Why a metric of METRICS cannot be computed here, in one sentence that says what to put where; None where it can.

    Nothing is downloaded. Raises BadInput for a name that is none, and where `weights` is no folder.
    """
    check_names([name])
    if name in lpips_dists.BACKBONE:
        return lpips_dists.explain_missing(name, weights)
    if name in no_reference.WEIGHTS:
        return no_reference.explain_missing(name, weights)
    if METRICS[name].scope == "set":
        return fid.explain_missing(weights)
    if name == "deg_published":
        return deg_recognizer.explain_missing(weights)
    return landmarks.explain_missing() if name in _LANDMARKS else None


def check_names(names: Sequence[str]) -> None:
    """Raise BadInput for a name that is no metric."""
    for name in names:
        if name not in METRICS:
            raise BadInput(f"'{name}' is no metric: say some of {', '.join(METRICS)}.")


def build_measure(
    names: Sequence[str] | None, judge: FaceModels, weights: Path | None
) -> tuple[Measure, dict[str, str]]:
    """What measures one image, and why metrics are missing: see the top of this file.

    Raises BadInput for a name that is no metric, and where `weights` is no folder.
    """
    asked = list(METRICS) if names is None else list(dict.fromkeys(names))
    reasons = {name: reason for name in asked if (reason := explain_missing(name, weights)) is not None}
    eyes, backbone = _Eyes(judge), cache(partial(load_backbone, folder=weights))
    readers: dict[str, Reader] = {}
    for name in asked:
        if name in reasons or METRICS[name].scope == "set":
            continue
        try:
            readers[name] = _reader(name, eyes, weights, backbone)
        except (LikenessError, FaceModelError) as error:
            reasons[name] = str(error)

    def measure(
        restored: np.ndarray, target: np.ndarray, references: Sequence[np.ndarray], wrong: Sequence[np.ndarray] = ()
    ) -> dict[str, float]:
        for image in (restored, target, *references, *wrong):
            _check(image)
        if restored.shape != target.shape:
            raise BadInput(
                f"The restored image is {restored.shape[1]} x {restored.shape[0]} and its target {target.shape[1]} x "
                f"{target.shape[0]}: bring them to one size."
            )
        shown = _Shown(restored, target, tuple(references), tuple(wrong))
        return {
            name: reader(shown) if restored.shape[0] >= METRICS[name].min_side else math.nan
            for name, reader in readers.items()
            if wrong or METRICS[name].scope != "wrong"
        }

    return measure, reasons


@dataclass(frozen=True)
class _Shown:
    restored: np.ndarray
    target: np.ndarray
    references: tuple[np.ndarray, ...]
    wrong: tuple[np.ndarray, ...]

    @cached_property
    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        return to_tensor(self.restored)[None], to_tensor(self.target)[None]


Reader = Callable[[_Shown], float]
Look = Callable[[np.ndarray], np.ndarray]


def _once(look: Look) -> Look:
    """`look`, asked once for each picture: targets and references come again with every system."""
    seen: dict[bytes, np.ndarray] = {}

    def asked(image: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
        if key not in seen:
            seen[key] = look(image)
        return seen[key]

    return asked


class _Eyes:
    """What the face models say of a picture."""

    def __init__(self, judge: FaceModels) -> None:
        self.embedding = _once(partial(embedding, judge=judge))
        self.points5 = _once(partial(find_5_points, judge=judge))
        self._points68 = _once(find_68_points)

    def points68(self, image: np.ndarray) -> np.ndarray:
        """NaN where the judge's detector finds no face: the predictor alone finds points in anything."""
        points = self._points68(image)
        return points if self.sees(image) else np.full_like(points, math.nan)

    def sees(self, image: np.ndarray) -> bool:
        return bool(np.isfinite(self.points5(image)).all())


def _embeddings(eyes: _Eyes, images: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([eyes.embedding(image) for image in images]) if images else np.empty((0, 1))


_IMAGE = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}
_LANDMARKS: dict[str, Callable[[np.ndarray, np.ndarray], list[float]]] = {
    "lmd": point_distance,
    "ald_eyes": lambda a, b: affine_distance(a[:, EYES], b[:, EYES]),
    "ald_mouth": lambda a, b: affine_distance(a[:, MOUTH], b[:, MOUTH]),
    "ald_eyes_mean": lambda a, b: affine_distance(a[:, EYES], b[:, EYES], "mean"),
    "ald_mouth_mean": lambda a, b: affine_distance(a[:, MOUTH], b[:, MOUTH], "mean"),
    "ald_eyes_affine": lambda a, b: affine_change(a[:, EYES], b[:, EYES]),
    "ald_mouth_affine": lambda a, b: affine_change(a[:, MOUTH], b[:, MOUTH]),
}


def _reader(name: str, eyes: _Eyes, weights: Path | None, backbone: Callable[[str], nn.Sequential]) -> Reader:
    """What gives the figure of that name. Raises LikenessError or FaceModelError for a file that does not fit."""
    embedded = partial(_embeddings, eyes)
    if name in _IMAGE:
        compare = _IMAGE[name]
        return lambda shown: compare(*shown.pair)[0]
    if name in lpips_dists.BACKBONE:
        compared = lpips_dists.load_metric(name, backbone(lpips_dists.BACKBONE[name]))
        return lambda shown: compared(*shown.pair)[0]
    if name in no_reference.WEIGHTS:
        judged = no_reference.load_no_reference(name, weights)
        return lambda shown: judged(shown.pair[0])[0]
    if name in _LANDMARKS:
        apart = _LANDMARKS[name]
        return lambda shown: apart(eyes.points68(shown.restored)[None], eyes.points68(shown.target)[None])[0]
    match name:
        case "l2_ld":
            return lambda shown: point_distance(eyes.points5(shown.restored)[None], eyes.points5(shown.target)[None])[0]
        case "face_restored":
            return lambda shown: float(eyes.sees(shown.restored))
        case "face_target":
            return lambda shown: float(eyes.sees(shown.target))
        case "id_target":
            return lambda shown: id_target(embedded([shown.restored]), embedded([shown.target]))[0]
        case "id_references":
            return lambda shown: id_references(embedded([shown.restored]), [embedded(shown.references)])[0]
        case "deg_judge":
            return lambda shown: angle_degrees(embedded([shown.restored]), embedded([shown.target]))[0]
        case "deg_published":
            described = _once(deg_recognizer.load_deg_recognizer(weights))
            return lambda shown: angle_degrees(
                described(shown.restored)[None], described(shown.target)[None], SAME_IMAGE
            )[0]
        case "copy_ratio":
            return lambda shown: copy_ratio(
                embedded([shown.restored]), embedded([shown.target]), [embedded(shown.references)]
            )[0]
        case "takeover":
            return lambda shown: takeover(
                embedded([shown.restored]), embedded([shown.target]), [embedded(shown.wrong)]
            )[0]
    raise KeyError(name)


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise BadInput(
            f"A picture to measure is a square in RGB and 8 bits, and this one is {image.dtype} of shape "
            f"{image.shape}: restore it again, or convert it."
        )
