"""Computes the latent of base `tiny` by space-to-depth, which loses no information."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def encode(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Returns the latent (B, 3 factor^2, S/factor, S/factor) in -1..1 of an image (B,3,S,S) in 0..1."""
    return F.pixel_unshuffle(image * 2 - 1, factor)


def decode(latent: torch.Tensor, factor: int) -> torch.Tensor:
    """Returns the image of a latent, not clamped. `decode` is the exact inverse of `encode`."""
    return (F.pixel_shuffle(latent, factor) + 1) / 2
