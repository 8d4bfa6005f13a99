"""LPIPS and DISTS as metrics: the networks of train.losses.perceptual, where their backbone's weights are on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from train.backbones import BACKBONES, find_local_file, get_file_name
from train.losses.perceptual import Dists, Lpips

# metric -> the backbone whose layers it compares
BACKBONE = {"lpips": "vgg16", "lpips_alex": "alexnet", "dists": "vgg16"}

# (B, 3, S, S) restored and target in 0..1 -> a figure an image
Compare = Callable[[torch.Tensor, torch.Tensor], list[float]]


def explain_missing(name: str, weights: Path | None) -> str | None:
    """Why a metric of BACKBONE cannot be computed, in one sentence; None where it can. Nothing is downloaded."""
    backbone = BACKBONE[name]
    file = get_file_name(backbone)
    if find_local_file(file, weights) is not None:
        return None
    return f"{file} is not here: put it (from {BACKBONES[backbone].url}) into a folder and say --weights FOLDER."


def load_metric(name: str, features: nn.Sequential) -> Compare:
    """A metric of BACKBONE in the layers of its backbone, frozen, as train.backbones.load_backbone gives them."""
    if name == "dists":
        dists = Dists(features).eval()

        def by_dists(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
            with torch.inference_mode():
                return [float(value) for value in dists(restored, target)]

        return by_dists
    lpips = Lpips(features, BACKBONE[name]).eval()

    def by_lpips(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
        with torch.inference_mode():
            return [float(value) for value in lpips.distance(lpips(restored), lpips(target))]

    return by_lpips
