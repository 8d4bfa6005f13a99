"""FID: how far a set of restored images is from another set. One figure a set, never one an image."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from manifests.errors import BadInput
from train.backbones import find_local_file

# pytorch-fid and torch-fidelity publish the same tensors under two names
INCEPTION = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
_FROM = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION[0]}"
FEATURES = 2048  # of Inception v3's last pooling (Heusel et al. 2017)


def explain_missing(weights: Path | None) -> str | None:
    """Why FID cannot be computed, in one sentence; None where it can. Nothing is downloaded."""
    if _file(weights) is None:
        return f"{INCEPTION[0]} is not here: put it (from {_FROM}) into a folder and say --weights FOLDER."
    if importlib.util.find_spec("torch_fidelity") is None:
        return "torch-fidelity is not installed: pip install likeness again."
    return None


def fid(restored: Iterable[np.ndarray], others: Iterable[np.ndarray], weights: Path | None) -> float:
    """FID of images, RGB uint8 (H, W, 3) of any size, each enlarged or shrunk to 299 px; lower is better.

    The mean and covariance of 2048 features need far more images than a test set has: with few the figure is too high,
    and only sets of one size compare. Raises BadInput for fewer than two images a side, and for weights that are
    missing or do not fit.
    """
    return frechet_distance(restored, others, load_inception(weights))


def frechet_distance(restored: Iterable[np.ndarray], others: Iterable[np.ndarray], network: nn.Module) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the features (Fréchet 1957), with unbiased covariances.

    `network` takes uint8 (1, 3, H, W) to (1, d), and has `num_features`, d.
    """
    measured = FrechetInceptionDistance(feature=network)
    with torch.inference_mode():
        for images, real in ((others, True), (restored, False)):
            count = 0
            for count, image in enumerate(images, 1):  # noqa: B007
                measured.update(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], real=real)
            if count < 2:
                side = "other images" if real else "restored images"
                raise BadInput(f"FID compares sets and there are {count} {side}: give at least two.")
        return max(float(measured.compute()), 0.0)


def load_inception(weights: Path | None) -> nn.Module:
    """FID's own Inception v3, uint8 (B, 3, H, W) -> (B, 2048). Raises BadInput."""
    reason = explain_missing(weights)
    path = _file(weights)
    if reason is not None or path is None:
        raise BadInput(f"FID cannot be computed: {reason}")
    try:
        # torch-fidelity unpickles whatever the file holds, so first it must hold nothing but tensors
        torch.load(path, map_location="cpu", weights_only=True)
        # the original code resizes without antialiasing, and so do all published figures
        network = NoTrainInceptionV3("inception-v3-compat", [str(FEATURES)], str(path), antialias=False)
    except Exception as error:  # whatever is wrong with the file, the answer is the same
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise BadInput(f"{path} does not hold FID's Inception weights ({why}): put {_FROM} there.") from error
    network.num_features = FEATURES
    return network


def _file(weights: Path | None) -> Path | None:
    found = [find_local_file(name, weights) for name in INCEPTION]
    return next((path for path in found if path is not None), None)
