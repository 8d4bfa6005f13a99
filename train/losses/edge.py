"""Edges at several scales: what a pixel loss alone leaves soft, and what a grid of the latent would break."""

from __future__ import annotations

import torch
from torch.nn import functional as F

SCALES = 3  # full, half and quarter size (ours)


def gradients(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward differences of (B,C,H,W) along x and along y."""
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


def edge_loss(restored: torch.Tensor, target: torch.Tensor, scales: int = SCALES) -> torch.Tensor:
    """Mean absolute difference of the gradients of (B,3,S,S) images in 0..1, over area-halved scales (ours)."""
    total = restored.new_zeros(())
    for scale in range(scales):
        if scale:
            restored, target = F.avg_pool2d(restored, 2), F.avg_pool2d(target, 2)
        for a, b in zip(gradients(restored), gradients(target), strict=True):
            total = total + (a - b).abs().mean() / (2 * scales)
    return total
