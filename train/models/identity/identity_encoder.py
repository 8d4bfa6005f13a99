"""Defines IR-SE50, the identity encoder of pSp and ReFineFIR.

IR-SE50 is a residual network with squeeze and excitation, which was trained with ArcFace. The tensors have the names of
the public repository JianWang-CMU/RefineFIR. As in ReFine, the input is a gray face, so the colours of a photo do not
change the embedding.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from train.models.config import IR_SE50, IrSeShape

# From id_loss.py, in pixels: the side of the face, the rows and the columns of the crop, and the side of the network's
# input.
FACE, ROWS, COLUMNS, CROP = 256, slice(35, 223), slice(32, 220), 112
STEM = 64  # The number of channels of the first layer.
LAST_MAP = 7  # The side of the last map in pixels.


class Squeeze(nn.Module):
    """Multiplies each channel of a map by a factor in 0..1, which is computed from the means of all channels."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // squeeze, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // squeeze, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a map (B,C,h,w) for x (B,C,h,w)."""
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class ResidualUnit(nn.Module):
    """Adds the output of `res_layer` to a shortcut of the input. The networks IR-SE and IR consist of such units.

    `res_layer` maps (B,inputs,H,W) to (B,outputs,H/stride,W/stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, res_layer: nn.Sequential) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = res_layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,outputs,h,w) for x (B,inputs,H,W)."""
        out: torch.Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


def _build_unit(inputs: int, outputs: int, stride: int, squeeze: int) -> ResidualUnit:
    layers = nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.PReLU(outputs),
        nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        Squeeze(outputs, squeeze),
    )
    return ResidualUnit(inputs, outputs, stride, layers)


class IrSe(nn.Module):
    """Computes unit embeddings (B,d) of face crops (B,3,112,112) in -1..1."""

    def __init__(self, shape: IrSeShape = IR_SE50) -> None:
        super().__init__()
        self.dim = last = shape.dim
        self.input_layer = nn.Sequential(nn.Conv2d(3, STEM, 3, padding=1, bias=False), nn.BatchNorm2d(STEM))
        self.input_layer.append(nn.PReLU(STEM))
        units, before = list[nn.Module](), STEM
        for width, count in zip(shape.widths, shape.units, strict=True):
            for number in range(count):
                units.append(_build_unit(before, width, 1 if number else 2, shape.squeeze))
                before = width
        self.body = nn.Sequential(*units)
        # Dropout does nothing in eval mode, so nn.Identity takes its place.
        linear = nn.Linear(last * LAST_MAP**2, last)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last), nn.Identity(), nn.Flatten(), linear, nn.BatchNorm1d(last)
        )

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Returns unit embeddings (B,d)."""
        return F.normalize(self.output_layer(self.body(self.input_layer(crops))))


def embed_gray(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Returns unit embeddings (B,d) of the gray versions of images (B,3,S,S) in -1..1.

    The images are aligned to the FFHQ template. The gray value is the mean of the three channels. The gray image is
    resized to 256 px (area), cropped to 188 px, and pooled to 112 px. Gradients reach the images.
    """
    gray = images.mean(1, keepdim=True)
    if gray.shape[-1] != FACE:
        gray = F.interpolate(gray, (FACE, FACE), mode="area")
    crops = F.adaptive_avg_pool2d(gray[:, :, ROWS, COLUMNS], CROP)
    return network(crops.expand(-1, 3, -1, -1))


class IdentityEncoder(nn.Module):
    """Computes unit embeddings of faces (B,3,S,S) in 0..1, like train.models.identity.recognizer.Recognizer.

    The network is frozen and always in eval mode. Gradients reach the faces, so a loss can use an IdentityEncoder
    instead of a Recognizer.
    """

    def __init__(self, network: IrSe) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    @property
    def dim(self) -> int:
        """Returns the length of an embedding."""
        return self.network.dim

    def train(self, mode: bool = True) -> IdentityEncoder:
        """Does nothing: the network stays in eval mode, so that its batch norms never change."""
        return self

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Returns unit embeddings (B,d)."""
        return embed_gray(self.network, 2 * faces - 1)
