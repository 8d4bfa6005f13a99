"""Loads the recognizer of the published metric Deg: an ArcFace with a ResNet-18, for gray crops of 128 px (VQFR's
metric_paper)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from manifests.errors import BadInput
from train.losses.backbones import explain_wrong_file, find_local_file

# The names of two possible files of the recognizer: STATE contains a state dict, and SCRIPT is a TorchScript file.
STATE, SCRIPT = "resnet18_110.pth", "resnet18_110.pt"
SIZE = 128  # the side of the crop in pixels
_FROM = "VQFR's and GFPGAN's metric weights"


def explain_missing(weights: Path | None) -> str | None:
    """Returns a sentence that says why the published Deg cannot be computed, or None if it can be computed."""
    if find_file(weights) is None:
        return (
            f"{STATE} is missing: put this file of {_FROM}, or {SCRIPT} (a TorchScript file of the same network), into "
            "a folder, and give the folder with --weights FOLDER."
        )
    return None


def load_deg_recognizer(weights: Path | None) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that maps a crop, RGB uint8 (S, S, 3), to its embedding, float32 (512,).

    The embedding is not scaled to length 1. Raises BadInput if the file of weights is missing or wrong.
    """
    path, reason = find_file(weights), explain_missing(weights)
    if path is None:
        raise BadInput(f"The published Deg cannot be computed: {reason}")
    with explain_wrong_file(
        f"{path} does not contain the network of the recognizer",
        f"remove this file, and put {STATE} from {_FROM} into the folder",
    ):
        network = torch.jit.load(str(path), map_location="cpu") if path.name == SCRIPT else _network(path)
        network.eval()
        with torch.inference_mode():
            shape = tuple(network(torch.zeros(1, 1, SIZE, SIZE)).shape)
        if shape != (1, 512):
            raise ValueError(f"its output has the shape {shape}, not (1, 512)")

    def embed(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(network(prepare_input(image))[0].numpy())

    return embed


def prepare_input(image: np.ndarray) -> torch.Tensor:
    """Converts RGB uint8 (S, S, 3) to gray float32 (1, 1, 128, 128) in -1..1.

    The image is resized bilinearly, without antialiasing. The published script reads a PNG as a gray image, and the PNG
    library rounds the gray values down. cv2.cvtColor rounds to the nearest level, so half of its values would differ by
    one level. `prepare_input` therefore writes a PNG in memory and reads it as a gray image.
    """
    data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
    gray = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    gray = cv2.resize(gray, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy((gray.astype(np.float32) - 127.5) / 127.5)[None, None]


def find_file(weights: Path | None) -> Path | None:
    """Returns the path of the recognizer's file, or None if the file is missing. Raises BadInput if `weights` is not a
    folder."""
    paths = (find_local_file(name, weights) for name in (STATE, SCRIPT))
    return next((path for path in paths if path is not None), None)


def _network(path: Path) -> nn.Module:
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = FaceResNet18()
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return network


class FaceResNet18(nn.Module):
    """Builds a ResNet-18 of improved blocks (IR, Deng et al. 2019) for images with one channel.

    The tensors have the same names as in the file resnet18_110.pth.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.bn4 = nn.BatchNorm2d(512)
        self.fc5 = nn.Linear(512 * 8 * 8, 512)
        self.bn5 = nn.BatchNorm1d(512)

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        """Maps gray images (B, 1, 128, 128) in -1..1 to embeddings (B, 512)."""
        x = self.maxpool(self.prelu(self.bn1(self.conv1(gray))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: torch.Tensor = self.bn5(self.fc5(self.bn4(x).flatten(1)))
        return features


class _Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(into)
        self.conv1 = nn.Conv2d(into, into, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(into)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if into != out else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        inner = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        # The two activations of a block have the same learned slope.
        out: torch.Tensor = self.prelu(self.bn2(self.conv2(inner)) + skip)
        return out
