"""Pixels."""

from __future__ import annotations

import torch


def pixel_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of (B,3,S,S) images in 0..1."""
    return (restored - target).abs().mean()


def mse_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of (B,3,S,S) images in 0..1 (OSDFace's L_MSE; on which range was not published)."""
    return (restored - target).square().mean()
