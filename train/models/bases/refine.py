"""Refines an image at half its resolution with the context that the UNet found (ours).

The UNet of base `tiny` sees an image as squares of pixels. So the UNet only slowly learns an operation that is the same
at every pixel, for example to remove noise and JPEG blocks, or to sharpen edges.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from train.models.config import REFINEMENT_SHRINK
from train.models.latent import depth_to_space, space_to_depth
from train.models.references import zeroed

BLOCKS = 2  # the number of residual blocks


class Refinement(nn.Module):
    """Adds a correction to an image. Residual blocks compute the correction from the image, the input of the step, and
    the features of the UNet.

    The last convolution starts at zero, so a new refinement changes nothing.
    """

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(6 * REFINEMENT_SHRINK**2, channels, 3, padding=1)
        self.context = nn.Conv2d(context_channels, channels, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(BLOCKS)
        )
        self.last = nn.Sequential(nn.SiLU(), zeroed(nn.Conv2d(channels, 3 * REFINEMENT_SHRINK**2, 3, padding=1)))

    def forward(self, restored: torch.Tensor, before: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Returns the refined image (B,3,S,S). No image is clamped.

        `restored` (B,3,S,S) is the output image of the UNet. `before` (B,3,S,S) is the input image of the step, which
        is the LQ image in the first step. `context` (B,C,h,w) are features of the UNet.
        """
        both = torch.cat([restored, before], 1)
        # Under autocast, the convolution would convert the number type. A conversion before the permutation is faster
        # than this conversion (measured).
        if torch.is_autocast_enabled(both.device.type):
            both = both.to(torch.get_autocast_dtype(both.device.type))
        h = self.enter(space_to_depth(both, REFINEMENT_SHRINK))
        h = h + F.interpolate(self.context(context), h.shape[-2:], mode="bilinear", align_corners=False)
        for block in self.blocks:
            h = h + block(h)
        return restored + depth_to_space(self.last(h), REFINEMENT_SHRINK)
