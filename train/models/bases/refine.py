"""Refines an image at half its resolution with the context that the UNet found (ours).

The UNet of base `tiny` sees an image as squares of pixels, so it learns slowly what is the same at every pixel: to
remove noise and JPEG blocks, and to sharpen an edge. The refinement learns this in the first hundred steps.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from train.models.references import zeroed

SHRINK = 2  # the refinement works on squares of SHRINK x SHRINK pixels
BLOCKS = 2  # the number of residual blocks


class Refinement(nn.Module):
    """Adds to an image what residual blocks compute from the image, the LQ image and the features of the UNet.

    The last convolution starts at zero, so a new refinement changes nothing.
    """

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(6 * SHRINK**2, channels, 3, padding=1)
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
        self.last = nn.Sequential(nn.SiLU(), zeroed(nn.Conv2d(channels, 3 * SHRINK**2, 3, padding=1)))

    def forward(self, restored: torch.Tensor, lq: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Returns the refined image (B,3,S,S). `restored` and `lq` are (B,3,S,S) in 0..1, `context` is (B,C,h,w)."""
        h = self.enter(F.pixel_unshuffle(torch.cat([restored, lq], 1), SHRINK))
        h = h + F.interpolate(self.context(context), h.shape[-2:], mode="bilinear", align_corners=False)
        for block in self.blocks:
            h = h + block(h)
        return restored + F.pixel_shuffle(self.last(h), SHRINK)
