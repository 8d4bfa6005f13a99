"""Refines an image at half its resolution, with features of the UNet as context (ours).

A position of the UNet's latent is a whole square of pixels. The UNet therefore learns slowly what must be done equally
at every pixel, for example the removal of noise and the sharpening of edges. The refinement has a finer resolution,
and learns such work faster than the UNet.
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
    """Corrects an image that the UNet restored. Residual blocks compute the correction from the output, the inputs and
    the features of the UNet.

    `latents` is the number of latents that the refinement reads. Each latent is divided into small squares with a side
    of REFINEMENT_SHRINK pixels (train/models/latent.py). The last convolution starts at zero, so a new refinement
    changes nothing.
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
        """Returns the correction of the first latent, (B, 3 factor^2, h, w).

        `latents` are the output of the UNet and the inputs of the UNet, in this order. The inputs are the LQ latent, or
        in a denoiser the noisy latent and the LQ latent. `factor` is the latent factor. `context` (B,C,h,w) are
        features of the UNet.
        """
        # Under autocast, it is faster to convert the latents before the permutation than after it (measured).
        squares = [open_squares(to_autocast((one + 1) / 2), factor, REFINEMENT_SHRINK) for one in latents]
        h = self.first(torch.cat(squares, 1))
        h = h + F.interpolate(self.context(context), h.shape[-2:], mode="bilinear", align_corners=False)
        for block in self.blocks:
            h = h + block(h)
        return 2 * close_squares(self.last(h), factor, REFINEMENT_SHRINK)
