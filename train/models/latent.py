"""The latent of the recipes that download nothing: space-to-depth, which loses nothing."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def encode(image: torch.Tensor, factor: int) -> torch.Tensor:
    """(B,3,S,S) in 0..1 -> latent (B, 3 factor^2, S/factor, S/factor) in -1..1."""
    return F.pixel_unshuffle(image * 2 - 1, factor)


def decode(latent: torch.Tensor, factor: int) -> torch.Tensor:
    """The exact inverse of `encode`; not clamped."""
    return (F.pixel_shuffle(latent, factor) + 1) / 2
