"""Defines StyleGAN2's discriminator, which ReFine trains together with the generator."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from train.models.bases.stylegan.layers import ConvLayer, EqualLinear
from train.models.config import SMALLEST_MAP, StyleganConfig

GROUP = 4  # the largest number of images in a group, see `measure_variation`
SMALLEST_VARIANCE = 1e-8


class ResidualBlock(nn.Module):
    """Halves the size of a map with two convolutions, and adds the map itself, halved by a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(inputs, inputs, 3)
        self.conv2 = ConvLayer(inputs, outputs, 3, halve=True)
        self.skip = ConvLayer(inputs, outputs, 1, halve=True, activate=False, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,outputs,H/2,W/2) for x (B,inputs,H,W)."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class StyleganDiscriminator(nn.Module):
    """Computes one logit for each image. The logit also depends on the variation within the batch."""

    def __init__(self, shape: StyleganConfig) -> None:
        super().__init__()
        levels = [shape.channels(size) for size in reversed(shape.sizes)]
        blocks = (ResidualBlock(fine, coarse) for fine, coarse in pairwise(levels))
        self.convs = nn.Sequential(ConvLayer(3, levels[0], 1), *blocks)
        width = levels[-1]
        self.final_conv = ConvLayer(width + 1, width, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(width * SMALLEST_MAP**2, width, activate=True), EqualLinear(width, 1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits (B,1) for images (B,3,S,S) in -1..1."""
        x = self.convs(images)
        x = self.final_conv(torch.cat([x, measure_variation(x)], 1))
        return self.final_linear(x.flatten(1))


def measure_variation(x: torch.Tensor) -> torch.Tensor:
    """Returns the minibatch standard deviation (B,1,h,w) of a map (B,C,h,w).

    The batch is divided into groups of at most GROUP images. Each group gets one number: the standard deviation over
    the images of the group, averaged over channels and pixels. Image b belongs to group b mod (number of groups). If
    GROUP does not divide the number of images, the groups are smaller (ours). StyleGAN2's code fails for such a batch.
    """
    size = next(size for size in range(min(GROUP, len(x)), 0, -1) if len(x) % size == 0)
    groups = x.view(size, -1, *x.shape[1:])  # (images of a group, groups, C, h, w)
    deviation = torch.sqrt(groups.var(0, unbiased=False) + SMALLEST_VARIANCE).mean((1, 2, 3))
    return deviation.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
