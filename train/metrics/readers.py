"""Makes one function for each metric of a restored image. The function has the networks that the metric needs.

train/metrics/measure.py chooses the functions and calls them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from curate.faces.align import embed_faces
from curate.faces.interface import FaceModels
from train.data.landmarks68 import find_68_points
from train.data.tensors import to_tensor
from train.metrics.identity import SAME_IMAGE_ANGLE, angle_degrees, id_references, id_target, same_person
from train.metrics.input_agreement import agree_with_input
from train.metrics.landmarks import (
    EYES,
    MOUTH,
    affine_change,
    affine_distance,
    find_5_points_in_all,
    point_distance,
)
from train.metrics.networks import adaface, awing, deg_recognizer, lpips_dists, no_reference, qalign
from train.metrics.psnr_ssim import crop_border, ms_ssim, psnr, psnr_y, ssim, ssim_y, vif
from train.metrics.reference_copying import copy_ratio, takeover


@dataclass(frozen=True)
class MeasuredCase:
    """Holds one restored image and the images with which it is compared."""

    restored: np.ndarray
    given_target: np.ndarray | None
    references: tuple[np.ndarray, ...]
    wrong: tuple[np.ndarray, ...]
    valid: np.ndarray | None  # bool (S, S); None if all pixels are valid
    given_lq: np.ndarray | None

    @property
    def target(self) -> np.ndarray:
        """Returns the target. A metric that reads the target is only computed for cases that have one."""
        assert self.given_target is not None
        return self.given_target

    @property
    def lq(self) -> np.ndarray:
        """Returns the LQ image. A metric that reads the LQ image is only computed for cases that have one."""
        assert self.given_lq is not None
        return self.given_lq

    def list_images(self, what: str) -> Sequence[np.ndarray]:
        """Returns the images in the field with the name `what`: one image, or the images of a tuple."""
        value = getattr(self, what)
        return value if isinstance(value, tuple) else (value,)

    @cached_property
    def mask(self) -> torch.Tensor | None:
        return None if self.valid is None else torch.from_numpy(np.array(self.valid))[None, None]

    @cached_property
    def tensor(self) -> torch.Tensor:
        return to_tensor(self.restored)[None]

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensor, to_tensor(self.target)[None]


ReadMetric = Callable[[MeasuredCase], float]  # Computes one metric of a case.
Analyse = Callable[[np.ndarray], np.ndarray]  # Maps an image to an embedding or to points.
AnalyseAll = Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]  # Maps several images to embeddings or to points.


def _remember_all(analyse_all: AnalyseAll) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Returns `analyse_all` with a cache. The keys of the cache are hashes of the images.

    The cache saves time, because all systems have the same targets and references. Images that are not in the cache are
    analysed in one call.
    """
    results: dict[bytes, np.ndarray] = {}

    def analyse_once(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        data = (repr(image.shape).encode() + np.ascontiguousarray(image).tobytes() for image in images)
        keys = [hashlib.sha256(one).digest() for one in data]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in results}
        if new:
            results.update(zip(new, analyse_all(list(new.values())), strict=True))
        return [results[key] for key in keys]

    return analyse_once


def _remember(analyse: Analyse) -> Analyse:
    """Returns `analyse` with a cache like that of `_remember_all`."""
    analyse_once = _remember_all(lambda images: map(analyse, images))
    return lambda image: analyse_once([image])[0]


class FaceCache:
    """Computes the embeddings and landmarks of images, only once for each image."""

    def __init__(self, judge: FaceModels) -> None:
        self.same_person = judge.same_person
        self._embed = _remember_all(partial(embed_faces, models=judge))
        self._find_5_points = _remember_all(partial(find_5_points_in_all, judge=judge))
        self._find_68_points = _remember(find_68_points)
        # Cached, because two metrics read AdaFace's embeddings.
        self.load_adaface = cache(lambda weights: _remember(adaface.load_adaface(weights)))

    def analyse(self, cases: Iterable[tuple[MeasuredCase, Iterable[str]]]) -> None:
        """Computes the judge's embeddings and five points for many cases, in as few runs of the judge as possible.

        `cases` has pairs of a case and the metrics that will be computed for it. The functions of `make_reader` then
        read these embeddings and points from the cache.
        """
        # The keys are the ids of the image objects, because many cases have the same target and references.
        embedded, searched = dict[int, np.ndarray](), dict[int, np.ndarray]()
        for case, names in cases:
            for name in names:
                embedded |= {id(image): image for what in EMBEDDED.get(name, ()) for image in case.list_images(what)}
                searched |= {id(image): image for what in SEARCHED.get(name, ()) for image in case.list_images(what)}
        self._embed(list(embedded.values()))
        self._find_5_points(list(searched.values()))

    def find_5_points(self, image: np.ndarray) -> np.ndarray:
        """Returns the result of train.metrics.landmarks.find_5_points."""
        return self._find_5_points([image])[0]

    def find_68_points(self, image: np.ndarray) -> np.ndarray:
        """Returns the 68 points, or NaN if the judge's detector finds no face.

        The detector is needed, because dlib's predictor also returns points for an image without a face.
        """
        points = self._find_68_points(image)
        return points if self.has_face(image) else np.full_like(points, math.nan)

    def has_face(self, image: np.ndarray) -> bool:
        return bool(np.isfinite(self.find_5_points(image)).all())

    def embed_all(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the embeddings (n, d) of n images."""
        return np.stack(self._embed(images)) if images else np.empty((0, 1))


# PSNR and SSIM measure only valid pixels.
MASKED = {"psnr": psnr, "ssim": ssim, "psnr_y": psnr_y, "ssim_y": ssim_y}
UNMASKED = {"ms_ssim": ms_ssim, "vif": vif}  # MS-SSIM and VIF measure all pixels.
# Maps a metric to the module that loads its network from a file of the user. Each module has explain_missing and
# find_file.
NETWORKS: dict[str, Any] = {
    "deg_published": deg_recognizer,
    "deg_adaface": adaface,
    "id_input_adaface": adaface,
    "lmd_awing": awing,
    "qalign": qalign,
}
LANDMARKS: dict[str, Callable[[np.ndarray, np.ndarray], list[float]]] = {
    "lmd": point_distance,
    "ald_eyes": lambda a, b: affine_distance(a[:, EYES], b[:, EYES]),
    "ald_mouth": lambda a, b: affine_distance(a[:, MOUTH], b[:, MOUTH]),
    "ald_eyes_mean": lambda a, b: affine_distance(a[:, EYES], b[:, EYES], "mean"),
    "ald_mouth_mean": lambda a, b: affine_distance(a[:, MOUTH], b[:, MOUTH], "mean"),
    "ald_eyes_affine": lambda a, b: affine_change(a[:, EYES], b[:, EYES]),
    "ald_mouth_affine": lambda a, b: affine_change(a[:, MOUTH], b[:, MOUTH]),
}

# EMBEDDED and SEARCHED map a metric to fields of MeasuredCase. EMBEDDED has the images that the judge's recognizer
# embeds. SEARCHED has the images in which the judge's detector searches for a face.
EMBEDDED: dict[str, tuple[str, ...]] = {
    "id_target": ("restored", "target"),
    "same_person": ("restored", "target"),
    "deg_judge": ("restored", "target"),
    "id_references": ("restored", "references"),
    "id_input": ("restored", "lq"),
    "copy_ratio": ("restored", "target", "references"),
    "takeover": ("restored", "target", "wrong"),
}
SEARCHED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("l2_ld", *LANDMARKS), ("restored", "target")),
    "face_restored": ("restored",),
    "face_target": ("target",),
}


def make_reader(
    name: str,
    faces: FaceCache,
    weights: Path | None,
    load: Callable[[str], nn.Sequential],
    load_score: Callable[[str], no_reference.Score],
    border: int = 0,
) -> ReadMetric:
    """Returns the function that computes one metric of a case. `border` is as in `build_measure`.

    Raises LikenessError or FaceModelError if a file of weights is wrong.
    """
    embed_all = faces.embed_all
    if name in MASKED:
        compare_valid = MASKED[name]

        def compare_inside(case: MeasuredCase) -> float:
            restored, target = (crop_border(image, border) for image in case.tensors)
            return compare_valid(restored, target, None if case.mask is None else crop_border(case.mask, border))[0]

        return compare_inside
    if name in UNMASKED:
        compare_all = UNMASKED[name]
        return lambda case: compare_all(*case.tensors)[0]
    if name in lpips_dists.BACKBONE:
        compare_features = lpips_dists.load_metric(name, load(lpips_dists.BACKBONE[name]))
        return lambda case: compare_features(*case.tensors)[0]
    if name in no_reference.WEIGHTS:
        score = load_score(name)
        return lambda case: score(case.tensor)[0]
    if name in LANDMARKS:
        compare_points, find = LANDMARKS[name], faces.find_68_points
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
