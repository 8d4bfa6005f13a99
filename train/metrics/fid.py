"""Computes FID, the distance between a set of restored images and another set of images.

FID is one value for a whole set.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from manifests.errors import BadInput
from manifests.runtime.text import take_first_line
from train.losses.backbones import find_local_file

# pytorch-fid and torch-fidelity publish the same tensors in files with different names.
INCEPTION = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
_FROM = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION[0]}"
FEATURES = 2048  # the outputs of the last pooling of Inception v3 (Heusel et al. 2017)


def explain_missing(weights: Path | None) -> str | None:
    """Returns in one sentence why FID cannot be computed, or None if it can be computed. Nothing is downloaded."""
    if find_inception(weights) is None:
        return (
            f"{INCEPTION[0]} is missing: download this file from {_FROM} into a folder, and give the folder with "
            "--weights FOLDER."
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        return "torch-fidelity is not installed: repeat `pip install likeness`."
    return None


def fid(restored: Iterable[np.ndarray], others: Iterable[np.ndarray], weights: Path | None) -> float:
    """Returns the FID of two sets of RGB uint8 images (H, W, 3) of any size; lower is better.

    Each image is resized to 299 px. A good estimate of the mean and the covariance of 2048 features needs far more
    images than a test set has. With few images, the FID is too high, so compare only sets with the same number of
    images. Raises BadInput if a set has fewer than two images, or if the weights are missing or wrong.
    """
    return frechet_distance(restored, others, load_inception(weights))


def frechet_distance(restored: Iterable[np.ndarray], others: Iterable[np.ndarray], network: nn.Module) -> float:
    """Returns |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the features (Fréchet 1957).

    m1, m2, C1 and C2 are the means and the unbiased covariances of the two sets. `network` maps uint8 (1, 3, H, W) to
    (1, d). The attribute `num_features` of `network` is d.
    """
    distance = FrechetInceptionDistance(feature=network)
    with torch.inference_mode():
        for images, real in ((others, True), (restored, False)):
            count = 0
            for count, image in enumerate(images, 1):  # noqa: B007
                distance.update(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], real=real)
            if count < 2:
                side = "other images" if real else "restored images"
                raise BadInput(
                    f"FID compares two sets of images, but there are only {count} {side}: give at least two {side}."
                )
        return max(float(distance.compute()), 0.0)


def load_inception(weights: Path | None) -> nn.Module:
    """Returns the Inception v3 of FID, which maps uint8 (B, 3, H, W) to (B, 2048).

    Raises BadInput if the weights are missing or wrong.
    """
    reason = explain_missing(weights)
    path = find_inception(weights)
    if reason is not None or path is None:
        raise BadInput(f"FID cannot be computed: {reason}")
    try:
        # torch-fidelity unpickles everything in the file, which can run code. The next line therefore raises an error
        # for a file that contains anything except tensors.
        torch.load(path, map_location="cpu", weights_only=True)
        # Images are resized without antialiasing, as in the original code and for all published values of FID.
        network = NoTrainInceptionV3("inception-v3-compat", [str(FEATURES)], str(path), antialias=False)
    except Exception as error:  # every problem with the file leads to the message below
        why = take_first_line(error).rstrip(".:")
        raise BadInput(
            f"{path} does not contain the Inception weights of FID ({why}): replace the file by {_FROM}."
        ) from error
    network.num_features = FEATURES
    return network


def find_inception(weights: Path | None) -> Path | None:
    """Returns the file with FID's weights, or None if it is missing. Raises BadInput if `weights` is not a folder."""
    paths = (find_local_file(name, weights) for name in INCEPTION)
    return next((path for path in paths if path is not None), None)
