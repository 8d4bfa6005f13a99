"""Measures all metrics of one restored image.

    measure, reasons = build_measure(names, judge, weights)
    row = measure(restored, target, references)             # {"psnr": 27.1, "lpips": .213, ..., "lmd": nan}
    row = measure(restored, target, references, wrong)      # also has "takeover", if `names` contains "takeover"

`names` are keys of train.metrics.registry.METRICS, or None for all metrics. `judge` has the recognizer and the detector
that measure the faces. `weights` is the folder of --weights. If a metric cannot be computed on this machine, no row has
the metric, and `reasons` says which file is missing and where to put the file. If a metric has no value for an image,
the row has NaN, and METRICS[name].nan_reason says why. The mean of `face_restored` is the share of images in which a
face was found. FID measures whole sets of images. To compute FID, call `explain_missing` and then
train.metrics.fid.fid.fid.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from curate.faces.align import embed_face
from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceModels
from manifests.errors import BadInput, LikenessError
from train.data import landmarks68
from train.data.landmarks68 import find_68_points
from train.data.tensors import to_tensor
from train.losses.backbones import find_local_file, get_file_name, load_backbone
from train.metrics import lpips_dists, no_reference
from train.metrics.fid import fid
from train.metrics.identity import SAME_IMAGE_ANGLE, angle_degrees, id_references, id_target, same_person
from train.metrics.input_agreement import agree_with_input
from train.metrics.landmarks import (
    EYES,
    MOUTH,
    affine_change,
    affine_distance,
    find_5_points,
    point_distance,
)
from train.metrics.networks import adaface, awing, deg_recognizer, qalign
from train.metrics.psnr_ssim import ms_ssim, psnr, psnr_y, ssim, ssim_y, vif
from train.metrics.reference_copying import copy_ratio, takeover
from train.metrics.registry import METRICS


class Measure(Protocol):
    """Measures one image. All images are aligned faces, RGB uint8 (S, S, 3).

    The restored image, the target and the LQ image have the same size. If `target` is None, the metrics that read a
    target are left out. If `lq` is None, the metrics that read the LQ image are left out. `valid`, bool (S, S), is
    False for pixels that do not come from the photo of the target. Outside `valid`, every metric sees the pixels of the
    target. With `only`, only these metrics are computed.

    Raises BadInput for images of another type or shape.
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
    """Returns why a metric of METRICS cannot be computed on this machine and what to do, or None if the metric can be
    computed.

    The function downloads nothing. Raises BadInput if no metric has this name, or if `weights` is not a folder.
    """
    check_names([name])
    if name in lpips_dists.BACKBONE:
        return lpips_dists.explain_missing(name, weights)
    if name in no_reference.WEIGHTS:
        return no_reference.explain_missing(name, weights)
    if name == "ntire":  # a sum of other metrics
        return None
    if METRICS[name].scope == "set":
        return fid.explain_missing(weights)
    if name in _NETWORKS:
        return _NETWORKS[name].explain_missing(weights)
    return landmarks68.explain_missing() if name in _LANDMARKS else None


def find_weights(name: str, weights: Path | None) -> tuple[Path, ...]:
    """Returns the files from which a metric of METRICS reads its networks, apart from the judge's files.

    A file that is missing is left out. Raises BadInput if `weights` is not a folder.
    """
    if name in lpips_dists.BACKBONE:
        file = find_local_file(get_file_name(lpips_dists.BACKBONE[name]), weights)
    elif name in no_reference.WEIGHTS:
        file = find_local_file(no_reference.WEIGHTS[name].file, weights, no_reference.WEIGHTS[name].cache)
    elif METRICS[name].scope == "set" and name != "ntire":
        file = fid.find_inception(weights)
    elif name in _NETWORKS:
        file = _NETWORKS[name].find_file(weights)
    else:
        file = landmarks68.find_predictor() if name in _LANDMARKS else None
    return () if file is None else (file,)


def reads_references(name: str) -> bool:
    """Returns whether a metric compares an image with its references."""
    return name in ("id_references", "copy_ratio")


def reads_target(name: str) -> bool:
    """Returns whether a metric compares an image with its target. Sets of real LQ images have no targets."""
    of_sets = ("fid_folder", "fid_statistics", "ntire")
    return name not in (*no_reference.WEIGHTS, *_READ_LQ, *of_sets, "qalign", "id_references", "face_restored")


def reads_lq(name: str) -> bool:
    """Returns whether a metric compares an image with its LQ image."""
    return name in _READ_LQ


def reads_judge(name: str) -> bool:
    """Returns whether the judge's embeddings or landmarks change the value of a metric."""
    own_network = (*lpips_dists.BACKBONE, *no_reference.WEIGHTS, *_NETWORKS, "input_agreement")
    return METRICS[name].scope != "set" and name not in (*_MASKED, *_UNMASKED, *own_network)


def check_names(names: Sequence[str]) -> None:
    """Raises BadInput if a name is not the name of a metric."""
    for name in names:
        if name not in METRICS:
            raise BadInput(f"There is no metric '{name}'; the metrics are {', '.join(METRICS)}.")


def select_names(
    names: Iterable[str], has_wrong: bool, only: Collection[str] | None, has_target: bool = True, has_lq: bool = False
) -> list[str]:
    """Returns the metrics of `names` that a call of a Measure computes.

    `has_wrong`, `has_target` and `has_lq` say whether the call has wrong references, a target and an LQ image. If
    `only` is given, the other metrics are left out.
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
) -> tuple[Measure, dict[str, str]]:
    """Returns the function that measures one image, and the reason for each missing metric (see the top of this file).

    The metrics compare an image only with its first `most_references` references, or with all references if
    `most_references` is None. `load_score` replaces `load_no_reference` with `weights`.

    Raises BadInput if a name is not the name of a metric, or if `weights` is not a folder.
    """
    metrics = list(METRICS) if names is None else list(dict.fromkeys(names))
    reasons = {name: reason for name in metrics if (reason := explain_missing(name, weights)) is not None}
    faces, load = _FaceCache(judge), cache(partial(load_backbone, folder=weights))
    load_score = load_score or partial(no_reference.load_no_reference, weights=weights)
    readers: dict[str, ReadMetric] = {}
    for name in metrics:
        if name in reasons or METRICS[name].scope == "set":
            continue
        try:
            readers[name] = _make_reader(name, faces, weights, load, load_score)
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
        case = _Case(restored, target, tuple(references), tuple(wrong), valid, lq)
        return {
            name: readers[name](case) if restored.shape[0] >= METRICS[name].min_side else math.nan
            for name in select_names(readers, bool(wrong), only, target is not None, lq is not None)
        }

    return measure, reasons


def cover_invalid(restored: np.ndarray, target: np.ndarray | None, valid: np.ndarray | None) -> np.ndarray:
    """Returns the restored image, with the pixels of the target outside `valid`, as every metric sees it."""
    return restored if valid is None or target is None else np.where(valid[:, :, None], restored, target)


@dataclass(frozen=True)
class _Case:
    """Holds one restored image and the images with which it is compared."""

    restored: np.ndarray
    given_target: np.ndarray | None
    references: tuple[np.ndarray, ...]
    wrong: tuple[np.ndarray, ...]
    valid: np.ndarray | None  # bool (S, S); None if all pixels are valid
    given_lq: np.ndarray | None

    @property
    def target(self) -> np.ndarray:
        """Returns the target. Only metrics that read a target are computed with a target."""
        assert self.given_target is not None
        return self.given_target

    @property
    def lq(self) -> np.ndarray:
        """Returns the LQ image. Only metrics that read the LQ image are computed with an LQ image."""
        assert self.given_lq is not None
        return self.given_lq

    @cached_property
    def mask(self) -> torch.Tensor | None:
        return None if self.valid is None else torch.from_numpy(np.array(self.valid))[None, None]

    @cached_property
    def tensor(self) -> torch.Tensor:
        return to_tensor(self.restored)[None]

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensor, to_tensor(self.target)[None]


ReadMetric = Callable[[_Case], float]  # A function that computes one metric of a case.
Analyse = Callable[[np.ndarray], np.ndarray]  # A function that maps an image to an embedding or to points.


def _remember(analyse: Analyse) -> Analyse:
    """Returns `analyse` with a cache, because all systems have the same targets and references. The keys of the cache
    are hashes of the images.
    """
    results: dict[bytes, np.ndarray] = {}

    def analyse_once(image: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
        if key not in results:
            results[key] = analyse(image)
        return results[key]

    return analyse_once


class _FaceCache:
    """Computes the embeddings and landmarks of images, only once for each image."""

    def __init__(self, judge: FaceModels) -> None:
        self.same_person = judge.same_person
        self.embed = _remember(partial(embed_face, models=judge))
        self.find_5_points = _remember(partial(find_5_points, judge=judge))
        self._find_68_points = _remember(find_68_points)
        # Two metrics read AdaFace's embeddings.
        self.load_adaface = cache(lambda weights: _remember(adaface.load_adaface(weights)))

    def find_68_points(self, image: np.ndarray) -> np.ndarray:
        """Returns the 68 points, or NaN if the judge's detector finds no face.

        The detector is needed, because dlib's predictor also returns points for an image without a face.
        """
        points = self._find_68_points(image)
        return points if self.has_face(image) else np.full_like(points, math.nan)

    def has_face(self, image: np.ndarray) -> bool:
        return bool(np.isfinite(self.find_5_points(image)).all())

    def embed_all(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([self.embed(image) for image in images]) if images else np.empty((0, 1))


# PSNR and SSIM measure only valid pixels.
_MASKED = {"psnr": psnr, "ssim": ssim, "psnr_y": psnr_y, "ssim_y": ssim_y}
_UNMASKED = {"ms_ssim": ms_ssim, "vif": vif}  # MS-SSIM and VIF measure all pixels.
_READ_LQ = (
    "id_input",
    "id_input_adaface",
    "input_agreement",
)  # These metrics compare the restored image with the LQ image.
# The metrics of networks whose files the user gives. Each module has explain_missing and find_file.
_NETWORKS: dict[str, Any] = {
    "deg_published": deg_recognizer,
    "deg_adaface": adaface,
    "id_input_adaface": adaface,
    "lmd_awing": awing,
    "qalign": qalign,
}
_LANDMARKS: dict[str, Callable[[np.ndarray, np.ndarray], list[float]]] = {
    "lmd": point_distance,
    "ald_eyes": lambda a, b: affine_distance(a[:, EYES], b[:, EYES]),
    "ald_mouth": lambda a, b: affine_distance(a[:, MOUTH], b[:, MOUTH]),
    "ald_eyes_mean": lambda a, b: affine_distance(a[:, EYES], b[:, EYES], "mean"),
    "ald_mouth_mean": lambda a, b: affine_distance(a[:, MOUTH], b[:, MOUTH], "mean"),
    "ald_eyes_affine": lambda a, b: affine_change(a[:, EYES], b[:, EYES]),
    "ald_mouth_affine": lambda a, b: affine_change(a[:, MOUTH], b[:, MOUTH]),
}


def _make_reader(
    name: str,
    faces: _FaceCache,
    weights: Path | None,
    load: Callable[[str], nn.Sequential],
    load_score: Callable[[str], no_reference.Score],
) -> ReadMetric:
    """Returns the function that computes one metric of a case.

    Raises LikenessError or FaceModelError if a file of weights is wrong.
    """
    embed_all = faces.embed_all
    if name in _MASKED:
        compare_valid = _MASKED[name]
        return lambda case: compare_valid(*case.tensors, case.mask)[0]
    if name in _UNMASKED:
        compare_all = _UNMASKED[name]
        return lambda case: compare_all(*case.tensors)[0]
    if name in lpips_dists.BACKBONE:
        compare_features = lpips_dists.load_metric(name, load(lpips_dists.BACKBONE[name]))
        return lambda case: compare_features(*case.tensors)[0]
    if name in no_reference.WEIGHTS:
        score = load_score(name)
        return lambda case: score(case.tensor)[0]
    if name in _LANDMARKS:
        compare_points, find = _LANDMARKS[name], faces.find_68_points
        return lambda case: compare_points(find(case.restored)[None], find(case.target)[None])[0]
    match name:
        case "l2_ld":
            find_5 = faces.find_5_points
            return lambda case: point_distance(find_5(case.restored)[None], find_5(case.target)[None])[0]
        case "face_restored":
            return lambda case: float(faces.has_face(case.restored))
        case "face_target":
            return lambda case: float(faces.has_face(case.target))
        case "id_target":
            return lambda case: id_target(embed_all([case.restored]), embed_all([case.target]))[0]
        case "same_person":
            threshold = faces.same_person
            return lambda case: same_person(embed_all([case.restored]), embed_all([case.target]), threshold)[0]
        case "id_references":
            return lambda case: id_references(embed_all([case.restored]), [embed_all(case.references)])[0]
        case "id_input":
            return lambda case: id_target(embed_all([case.restored]), embed_all([case.lq]))[0]
        case "input_agreement":
            return lambda case: agree_with_input(case.restored, case.lq)
        case "deg_judge":
            return lambda case: angle_degrees(embed_all([case.restored]), embed_all([case.target]))[0]
        case "deg_published":
            embed = _remember(deg_recognizer.load_deg_recognizer(weights))
            return lambda case: angle_degrees(embed(case.restored)[None], embed(case.target)[None], SAME_IMAGE_ANGLE)[0]
        case "deg_adaface":
            embed = faces.load_adaface(weights)
            return lambda case: angle_degrees(embed(case.restored)[None], embed(case.target)[None])[0]
        case "id_input_adaface":
            embed = faces.load_adaface(weights)
            return lambda case: id_target(embed(case.restored)[None], embed(case.lq)[None])[0]
        case "lmd_awing":
            find_98 = _remember(awing.load_awing(weights))
            return lambda case: point_distance(find_98(case.restored)[None], find_98(case.target)[None])[0]
        case "qalign":
            rate = qalign.load_qalign(weights)
            return lambda case: rate(case.tensor)[0]
        case "copy_ratio":
            return lambda case: copy_ratio(
                embed_all([case.restored]), embed_all([case.target]), [embed_all(case.references)]
            )[0]
        case "takeover":
            return lambda case: takeover(embed_all([case.restored]), embed_all([case.target]), [embed_all(case.wrong)])[
                0
            ]
    raise KeyError(name)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise BadInput(
            f"Only a square RGB image of type uint8 can be measured, but this image has the type {image.dtype} and the "
            f"shape {image.shape}: restore the image again, or convert it."
        )
