"""Computes LPIPS and DISTS as metrics.

The networks are in train.losses.perceptual, and the weights of the backbones are read from files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from train.losses.backbones import find_local_file, find_url, get_file_name
from train.losses.perceptual import Dists, Lpips

# Maps each metric to the network whose layers the metric compares.
BACKBONE = {"lpips": "vgg16", "lpips_alex": "alexnet", "dists": "vgg16"}

# Maps restored images and targets, each (B, 3, S, S) in 0..1, to one value for each image.
Compare = Callable[[torch.Tensor, torch.Tensor], list[float]]


def explain_missing(name: str, weights: Path | None) -> str | None:
    """Returns a sentence that says why a metric of BACKBONE cannot be computed, or None if it can be computed."""
    backbone = BACKBONE[name]
    file = get_file_name(backbone)
    if find_local_file(file, weights) is not None:
        return None
    return (
        f"{file} is missing: download this file from {find_url(backbone)} into a folder, and give the folder with "
        "--weights FOLDER."
    )


def load_metric(name: str, features: nn.Sequential) -> Compare:
    """Returns a metric of BACKBONE. `features` are the frozen layers that load_backbone returns."""
    if name == "dists":
        dists = Dists(features).eval()

        def compare_by_dists(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
            with torch.inference_mode():
                return [float(value) for value in dists(restored, target)]

        return compare_by_dists
    lpips = Lpips(features, BACKBONE[name]).eval()

    def compare_by_lpips(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
        with torch.inference_mode():
            return [float(value) for value in lpips.distance(lpips(restored), lpips(target))]

    return compare_by_lpips
