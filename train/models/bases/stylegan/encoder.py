"""Defines ReFine's encoder: convolutions that halve the image, and linear layers that compute the styles."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from train.models.bases.stylegan.layers import ConvLayer, EqualLinear
from train.models.config import SMALLEST_MAP, StyleganConfig

LAYERS = 5  # the number of linear layers that compute the styles


class Encoder(nn.Module):
    """Encodes the LQ image and the warped references into one map for each level, and into the styles of the decoder.

    The identity embedding changes only the styles, not the maps.
    """

    def __init__(self, shape: StyleganConfig) -> None:
        super().__init__()
        levels = [shape.channels(size) for size in reversed(shape.sizes)]
        self.styles, self.style = shape.styles, shape.limit
        self.conv1 = ConvLayer(shape.inputs, levels[0], 1)
        self.convs = nn.ModuleList(ConvLayer(fine, coarse, 3, halve=True) for fine, coarse in pairwise(levels))
        widths = [levels[-1] * SMALLEST_MAP**2 + shape.identity, *[self.style] * (LAYERS - 1), self.style * self.styles]
        self.fc = nn.Sequential(*(EqualLinear(before, after, activate=True) for before, after in pairwise(widths)))

    def forward(self, images: torch.Tensor, identity: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the styles (B,L,d) and the maps (B,C,s,s) of all levels, smallest first.

        `images` (B,3+3K,S,S) in -1..1 has the LQ image and then the warped references. `identity` (B,I) is the mean
        of the unit embeddings of the references, or a learned vector if there is no reference.
        """
        maps = [self.conv1(images)]
        for convolution in self.convs:
            maps.append(convolution(maps[-1]))
        styles = self.fc(torch.cat([maps[-1].flatten(1), identity], 1))
        return styles.view(len(images), self.styles, self.style), maps[::-1]
