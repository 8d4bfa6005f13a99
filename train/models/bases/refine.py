"""A few channels at full resolution after the decoder: smooths the latent's grid and sharpens from the input (ours)."""

from __future__ import annotations

import torch
from torch import nn

from train.models.references import zeroed


class Refinement(nn.Module):
    """restored + three convolutions over (restored, LQ), the last one starting at zero."""

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
        """Both (B,3,S,S) in 0..1 -> the same."""
        return restored + self.layers(torch.cat([restored, lq], 1))
