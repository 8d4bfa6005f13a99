"""Loads Inception v3, the network whose features FID compares."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn

from manifests.errors import BadInput
from train.losses.backbones import explain_wrong_file, find_local_file
from train.metrics.fid.conventions import CONVENTIONS, DEFAULT

# pytorch-fid and torch-fidelity publish the same tensors in files with different names.
INCEPTION = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
_FROM = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION[0]}"
# The layers of the network up to the last pooling, in their order.
_LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2",
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a",
    "Mixed_7b", "Mixed_7c", "AvgPool",
)  # fmt: skip

FEATURES = 2048  # the number of outputs of the last pooling of Inception v3 (Heusel et al. 2017)


def explain_missing(weights: Path | None) -> str | None:
    """Returns a sentence about what is missing for FID, or None if nothing is missing. Downloads nothing."""
    if find_inception(weights) is None:
        return (
            f"{INCEPTION[0]} is missing: download this file from {_FROM} into a folder, and give the folder with "
            "--weights FOLDER."
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        return "torch-fidelity is not installed: repeat `pip install likeness`."
    return None


class Inception(nn.Module):
    """Maps uint8 images (B, 3, H, W) to the 2048 features of FID. The images are resized by one of CONVENTIONS."""

    def __init__(self, network: nn.Module, convention: str) -> None:
        super().__init__()
        self.network, self.prepare = network, CONVENTIONS[convention].prepare

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns (B, 2048) for uint8 images (B, 3, H, W)."""
        maps = self.prepare(images)
        for name in _LAYERS:
            maps = getattr(self.network, name)(maps)
        return maps.flatten(1)


def load_inception(weights: Path | None, convention: str = DEFAULT) -> nn.Module:
    """Returns the Inception v3 of FID, which maps uint8 (B, 3, H, W) to (B, 2048).

    `convention` is a key of CONVENTIONS. Raises BadInput if the weights are missing or wrong.
    """
    reason = explain_missing(weights)
    path = find_inception(weights)
    if reason is not None or path is None:
        raise BadInput(f"FID cannot be computed: {reason}")
    from torchmetrics.image.fid import NoTrainInceptionV3  # the import takes seconds

    with explain_wrong_file(f"{path} does not contain the Inception weights of FID", f"replace the file by {_FROM}"):
        # torch-fidelity unpickles the whole file, which can run code. The next line first raises an error if the file
        # contains anything except tensors.
        torch.load(path, map_location="cpu", weights_only=True)
        network = NoTrainInceptionV3("inception-v3-compat", [str(FEATURES)], str(path))
    return Inception(network, convention)


def find_inception(weights: Path | None) -> Path | None:
    """Returns the path of FID's weights, or None if the file is missing. Raises BadInput if `weights` is not a
    folder."""
    paths = (find_local_file(name, weights) for name in INCEPTION)
    return next((path for path in paths if path is not None), None)
