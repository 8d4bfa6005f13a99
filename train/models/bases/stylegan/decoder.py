"""Defines ReFine's decoder: StyleGAN2's generator, with a fuser after every convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from train.models.bases.stylegan.layers import ConvLayer
from train.models.bases.stylegan.modulated import StyledConv, ToRgb
from train.models.config import SMALLEST_MAP, StyleganConfig


class Fuser(nn.Module):
    """Mixes a map of the decoder with a map of the encoder. A convolution computes the decoder's share for each channel
    and pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvLayer(2 * channels, channels, 3, activate=False)

    def forward(self, decoded: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Returns mask * decoded + (1 - mask) * encoded. All tensors are (B,C,h,w)."""
        mask = torch.sigmoid(self.conv(torch.cat([decoded, encoded], 1)))
        return torch.lerp(encoded, decoded, mask.to(decoded.dtype))


class ConstantInput(nn.Module):
    """Holds the learned map from which the decoder starts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, SMALLEST_MAP, SMALLEST_MAP))


class Decoder(nn.Module):
    """Decodes styles and encoder maps into an image.

    The noise is a buffer, so equal inputs give equal images. The release also contains StyleGAN2's mapping network but
    never calls it, so this decoder has none.
    """

    def __init__(self, shape: StyleganConfig) -> None:
        super().__init__()
        levels, style = [shape.channels(size) for size in shape.sizes], shape.limit
        self.input = ConstantInput(levels[0])
        self.conv1 = StyledConv(levels[0], levels[0], style)
        self.fuser1 = Fuser(levels[0])
        self.to_rgb1 = ToRgb(levels[0], style, first=True)
        self.convs, self.to_rgbs, self.fuser = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for coarse, fine in pairwise(levels):
            self.convs.extend([StyledConv(coarse, fine, style, double=True), StyledConv(fine, fine, style)])
            self.fuser.extend([Fuser(fine), Fuser(fine)])
            self.to_rgbs.append(ToRgb(fine, style))
        self.noises = nn.Module()
        sizes = [shape.sizes[0], *(size for size in shape.sizes[1:] for _ in range(2))]
        for number, size in enumerate(sizes):
            self.noises.register_buffer(f"noise_{number}", torch.randn(1, 1, size, size))

    def forward(self, styles: torch.Tensor, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the image (B,3,S,S) about in -1..1, not clamped.

        `styles` is (B,L,d). `maps` has the encoder map (B,C,s,s) of each level, smallest first.
        """
        noises = list(self.noises.buffers())
        # The level of 4 px has one convolution.
        x = self.input.input.expand(len(styles), -1, -1, -1)
        x = self.fuser1(self.conv1(x, styles[:, 0], noises[0]), maps[0])
        image = self.to_rgb1(x, styles[:, 1])
        # Each later level has two convolutions. Its conversion to RGB has the same style as the next level's first
        # convolution.
        for level, to_rgb in enumerate(self.to_rgbs):
            for layer in (2 * level, 2 * level + 1):
                x = self.convs[layer](x, styles[:, layer + 1], noises[layer + 1])
                x = self.fuser[layer](x, maps[level + 1])
            image = to_rgb(x, styles[:, 2 * level + 3], image)
        return image
