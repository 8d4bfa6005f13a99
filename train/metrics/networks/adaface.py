"""Loads AdaFace, the recognizer with which the NTIRE challenge on faces compares a restored face with its input.

The challenge uses IR-50, trained on MS1MV2 (Kim et al. 2022, repository mk-minchul/AdaFace).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from curate.faces.align import ARCFACE_112, crop_for_recognizer
from manifests.errors import BadInput
from train.losses.backbones import explain_wrong_file, find_local_file
from train.metrics.networks.onnx_network import load_network
from train.models.identity.identity_encoder import ResidualUnit
from train.models.released.read_pickled import load_tensors, read_pickled

# The names of three possible files: the published checkpoint, and the same network as an ONNX file or as a TorchScript
# file. The first file that exists is used.
STATE, OTHERS = "adaface_ir50_ms1mv2.ckpt", ("adaface_ir50_ms1mv2.onnx", "adaface_ir50_ms1mv2.pt")
SIDE = 112  # The side of the crop in pixels.
_PREFIX = "model."  # The prefix of the names of the network's tensors in the checkpoint.
_COUNTER = "num_batches_tracked"  # A tensor of each batch norm. Files of old versions of torch lack it.
_FROM = "the repository mk-minchul/AdaFace"


@dataclass(frozen=True)
class IrShape:
    """Describes the shape of a residual recognizer (IR). The default values are the numbers of IR-50."""

    widths: tuple[int, ...] = (64, 128, 256, 512)  # Number of channels of each stage.
    units: tuple[int, ...] = (3, 4, 14, 3)  # Number of units of each stage; the first unit halves the side of the map.
    stem: int = 64  # Number of channels of the first layer.
    dim: int = 512  # Length of an embedding.


IR_50 = IrShape()


def explain_missing(weights: Path | None) -> str | None:
    """Returns a sentence that says why AdaFace cannot be used, or None if AdaFace's file exists."""
    if find_file(weights) is not None:
        return None
    return (
        f"{STATE} is missing: put this file of {_FROM}, or {OTHERS[0]} (an ONNX file of the same network), into a "
        "folder, and give the folder with --weights FOLDER."
    )


def find_file(weights: Path | None) -> Path | None:
    """Returns the path of AdaFace's file, or None if the file is missing. Raises BadInput if `weights` is not a
    folder."""
    paths = (find_local_file(name, weights) for name in (STATE, *OTHERS))
    return next((path for path in paths if path is not None), None)


def load_adaface(weights: Path | None, shape: IrShape = IR_50) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that maps an aligned face, RGB uint8 (S, S, 3), to its embedding, float32 (d,).

    The aligned face is warped from the FFHQ template to ArcFace's template for 112 px. Raises BadInput if the file is
    missing or is not the network.
    """
    path, reason = find_file(weights), explain_missing(weights)
    if path is None:
        raise BadInput(f"AdaFace cannot be used: {reason}")
    if path.name == STATE:
        network = _load_state(path, shape)
    else:
        with explain_wrong_file(f"{path} does not contain AdaFace's network", f"put {STATE} of {_FROM} there"):
            network = load_network(path)
            _run(network, torch.zeros(1, 3, SIDE, SIDE))

    def embed(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(_run(network, prepare_input(image))[0].numpy())

    return embed


def prepare_input(image: np.ndarray) -> torch.Tensor:
    """Converts an aligned face, RGB uint8 (S, S, 3), to AdaFace's input: BGR, float32 (1, 3, 112, 112) in -1..1."""
    crop = crop_for_recognizer(image, ARCFACE_112, SIDE)
    bgr = np.ascontiguousarray(crop[:, :, ::-1].transpose(2, 0, 1)).astype(np.float32)
    return torch.from_numpy((bgr / 255 - 0.5) / 0.5)[None]


def _run(network: nn.Module, crops: torch.Tensor) -> torch.Tensor:
    output = network(crops)
    # AdaFace returns the embedding and its norm.
    embedding: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    if embedding.ndim != 2 or len(embedding) != len(crops):
        raise ValueError(f"its output has the shape {tuple(embedding.shape)}, not (1, d)")
    return embedding


def _load_state(path: Path, shape: IrShape) -> nn.Module:
    source = f"{STATE} of {_FROM}"
    content = read_pickled(path, source)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise BadInput(f"The entry state_dict of {path} is no dict of tensors: take {source}.")
    network = Ir(shape)
    tensors = {str(name).removeprefix(_PREFIX): value for name, value in state.items() if str(name).startswith(_PREFIX)}
    load_tensors(network, tensors, path, source, optional=[_COUNTER])
    return network.eval()


class Ir(nn.Module):
    """Computes embeddings (B, d) of crops (B, 3, 112, 112) in -1..1. The tensors have AdaFace's names."""

    def __init__(self, shape: IrShape = IR_50) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, shape.stem, 3, padding=1, bias=False), nn.BatchNorm2d(shape.stem), nn.PReLU(shape.stem)
        )
        units, before = list[nn.Module](), shape.stem
        for width, count in zip(shape.widths, shape.units, strict=True):
            for number in range(count):
                units.append(_build_unit(before, width, 1 if number else 2))
                before = width
        self.body = nn.Sequential(*units)
        side = SIDE // 2 ** len(shape.widths)
        # Dropout does nothing in eval mode, so nn.Identity takes its place.
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Identity(),
            nn.Flatten(),
            nn.Linear(before * side**2, shape.dim),
            nn.BatchNorm1d(shape.dim, affine=False),
        )

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Returns embeddings (B, d)."""
        embeddings: torch.Tensor = self.output_layer(self.body(self.input_layer(crops)))
        return embeddings


def _build_unit(inputs: int, outputs: int, stride: int) -> ResidualUnit:
    layers = nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.PReLU(outputs),
        nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )
    return ResidualUnit(inputs, outputs, stride, layers)
