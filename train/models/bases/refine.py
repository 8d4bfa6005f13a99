"""Refines the decoded image at full resolution (ours).

The refinement smooths the grid that the latent leaves in the image, and takes fine detail from the input.
"""

from __future__ import annotations

import torch
from torch import nn

from train.models.references import zeroed


class Refinement(nn.Module):
    """Adds the output of three convolutions over (restored, LQ) to the restored image.

    The last convolution starts at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, 3, 3, padding=1)),
        )

    def forward(self, restored: torch.Tensor, lq: torch.Tensor) -> torch.Tensor:
        """Returns the refined image (B,3,S,S). Both inputs are (B,3,S,S) in 0..1."""
        return restored + self.layers(torch.cat([restored, lq], 1))
