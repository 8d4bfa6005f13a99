"""Doubles the resolution by repeating pixels and then applies a 3 x 3 convolution, with 4/9 of the multiplications.

After the doubling, the nine weights of the kernel meet only 2 x 2 different pixels. So each of the four phases of the
output (even or odd row, even or odd column) is a convolution of the input with a kernel of 2 x 2 sums of weights. The
four phases are computed as one convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

# Which weights along an axis a pixel of the input meets. Row `p` is the phase, and column `k` is the earlier or the
# later of the two pixels of the input that the phase reads.
_SUMS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


class JoinedUpsampling(nn.Module):
    """Computes the convolution `conv` of an upsampled map from the map before the upsampling."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        sums = torch.tensor(_SUMS, dtype=torch.float64)
        kernels = torch.einsum("pky,qlx,ocyx->pqockl", sums, sums, conv.weight.detach().double())
        weight = kernels.flatten(0, 2).to(conv.weight.dtype)
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().repeat(4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,K,2H,2W) for x (B,C,H,W)."""
        phases = F.conv2d(x, self.weight, self.bias, padding=1)
        (count, _, height, width), outputs = x.shape, phases.shape[1] // 4
        result = phases.new_empty((count, 2 * height, 2 * width, outputs)).permute(0, 3, 1, 2)
        for number, phase in enumerate(phases.split(outputs, 1)):
            row, column = divmod(number, 2)
            result[:, :, row::2, column::2] = phase[:, :, row : row + height, column : column + width]
        return result


def join_upsampling(network: nn.Module) -> None:
    """Replaces each upsampling by a factor of 2 with a 3 x 3 convolution after it, in layers of diffusers.

    Afterwards each upsampling doubles the sides exactly, so a UNet needs maps whose sides can be halved at every level.
    """
    layers: list[Any] = [layer for layer in network.modules() if _can_join(layer)]
    for layer in layers:
        # diffusers calls only `conv` if `use_conv_transpose` is True, because a transposed convolution upsamples.
        layer.conv, layer.use_conv_transpose = JoinedUpsampling(layer.conv), True


def _can_join(layer: Any) -> bool:
    if not isinstance(layer, Upsample2D):
        return False
    conv: Any = getattr(layer, "conv", None)
    plain = type(conv) is nn.Conv2d and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    return bool(plain and layer.interpolate and layer.norm is None and not layer.use_conv_transpose)
