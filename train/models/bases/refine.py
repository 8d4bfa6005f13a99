"""Refines an image at half its resolution, with features of the UNet as context (ours).

The UNet of base `tiny` sees an image as squares of pixels. So the UNet only slowly learns an operation that is the same
at every pixel, for example to remove noise and JPEG blocks, or to sharpen edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from train.models.config import REFINEMENT_SHRINK
from train.models.latent import close_squares, open_squares, to_autocast
from train.models.references import zeroed

BLOCKS = 2  # the number of residual blocks


class Refinement(nn.Module):
    """Corrects an image that the UNet restored. Residual blocks compute the correction from this image, the inputs of
    the UNet, and the features of the UNet. `latents` is the number of latents that the refinement reads.

    The last convolution starts at zero, so a new refinement changes nothing. The latents have small squares of
    REFINEMENT_SHRINK pixels (train/models/latent.py).
    """

    def __init__(self, channels: int, context_channels: int, latents: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3 * latents * REFINEMENT_SHRINK**2, channels, 3, padding=1)
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

    def forward(self, latents: Sequence[torch.Tensor], context: torch.Tensor, factor: int) -> torch.Tensor:
        """Returns the correction of the first latent (B, 3 factor^2, h, w), in the shape of this latent.

        `latents` has the output of the UNet, and then the inputs of the UNet: the LQ latent, or the noisy latent and
        the LQ latent of a denoiser. `factor` is the latent factor of all latents. `context` (B,C,h,w) are features of
        the UNet.
        """
        # Under autocast, a conversion before the permutations is faster (measured).
        squares = [open_squares(to_autocast((one + 1) / 2), factor, REFINEMENT_SHRINK) for one in latents]
        h = self.first(torch.cat(squares, 1))
        h = h + F.interpolate(self.context(context), h.shape[-2:], mode="bilinear", align_corners=False)
        for block in self.blocks:
            h = h + block(h)
        return 2 * close_squares(self.last(h), factor, REFINEMENT_SHRINK)
