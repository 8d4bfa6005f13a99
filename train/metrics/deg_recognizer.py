"""The recognizer behind the published Deg: ResNet-18 ArcFace on gray crops of 128 px (VQFR's metric_paper)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from manifests.errors import BadInput
from train.backbones import find_local_file

STATE, SCRIPT = "resnet18_110.pth", "resnet18_110.pt"  # a state dict, and the same network as TorchScript
SIZE = 128  # pixels
_FROM = "VQFR's and GFPGAN's metric weights"


def explain_missing(weights: Path | None) -> str | None:
    """Why the published Deg cannot be computed, in one sentence; None where it can."""
    if _file(weights) is None:
        return (
            f"{STATE} is not here: put it (from {_FROM}), or the same network as TorchScript named {SCRIPT}, into a "
            f"folder and say --weights FOLDER."
        )
    return None


def load_deg_recognizer(weights: Path | None) -> Callable[[np.ndarray], np.ndarray]:
    """RGB uint8 (S, S, 3) -> float32 (512,), not of length 1. Raises BadInput where it is missing or does not fit."""
    path, reason = _file(weights), explain_missing(weights)
    if path is None:
        raise BadInput(f"The published Deg cannot be computed: {reason}")
    try:
        network = torch.jit.load(str(path), map_location="cpu") if path.name == SCRIPT else _network(path)
        network.eval()
        with torch.inference_mode():
            found = network(torch.zeros(1, 1, SIZE, SIZE)).shape
        if tuple(found) != (1, 512):
            raise ValueError(f"it gives {tuple(found)} and not (1, 512)")
    except Exception as error:  # whatever is wrong with the file, the answer is the same
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise BadInput(f"{path} does not hold the recognizer of {STATE} ({why}): put {_FROM} there.") from error

    def described(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(network(prepare_input(image))[0].numpy())

    return described


def prepare_input(image: np.ndarray) -> torch.Tensor:
    """RGB uint8 (S, S, 3) -> float32 (1, 1, 128, 128) in -1..1: gray, then resized bilinearly, which aliases.

    The script reads a PNG as gray, and the PNG library cuts off where cv2.cvtColor rounds: one level in half of the
    pixels. So it is read from a PNG here too.
    """
    data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
    gray = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    gray = cv2.resize(gray, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy((gray.astype(np.float32) - 127.5) / 127.5)[None, None]


def _file(weights: Path | None) -> Path | None:
    found = [find_local_file(name, weights) for name in (STATE, SCRIPT)]
    return next((path for path in found if path is not None), None)


def _network(path: Path) -> nn.Module:
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = FaceResNet18()
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return network


class FaceResNet18(nn.Module):
    """ResNet-18 of improved blocks (Deng et al. 2019, IR) on one channel, with the names of resnet18_110's tensors."""

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
        """(B, 1, 128, 128) in -1..1 -> (B, 512)."""
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
        kept = x if self.downsample is None else self.downsample(x)
        inner = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        # one slope serves both activations
        out: torch.Tensor = self.prelu(self.bn2(self.conv2(inner)) + kept)
        return out
