"""Joins two layers into one: doubling the resolution by repeating pixels, and a 3 x 3 convolution.

After the doubling, the nine weights of the kernel are applied to only 2 x 2 different pixels. Each of the four phases
of the output (even or odd row, even or odd column) is therefore a convolution of the input with a 2 x 2 kernel, whose
weights are sums of the nine weights. The four small convolutions need 4/9 of the multiplications. The four phases are
computed as one convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

# Along each axis, some weights of the kernel read the same pixel of the input, so these weights are added. _SUMS[p][k]
# is for phase `p` (0: even, 1: odd) and for the first (k = 0) or second (k = 1) of the two pixels that the phase reads.
# A 1 marks each weight of the sum.
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
    """Replaces diffusers' layers that double the resolution and then apply a 3 x 3 convolution.

    The new layers always double the sides exactly. The sides of a UNet's latent must therefore be divisible by 2 at
    every level.
    """
    layers: list[Any] = [layer for layer in network.modules() if _can_join(layer)]
    for layer in layers:
        # If `use_conv_transpose` is True, diffusers calls only `conv` and does not repeat pixels.
        layer.conv, layer.use_conv_transpose = JoinedUpsampling(layer.conv), True


def _can_join(layer: Any) -> bool:
    if not isinstance(layer, Upsample2D):
        return False
    conv: Any = getattr(layer, "conv", None)
    plain = type(conv) is nn.Conv2d and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    return bool(plain and layer.interpolate and layer.norm is None and not layer.use_conv_transpose)
