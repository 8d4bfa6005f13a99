"""Edges: what a pixel loss alone leaves soft, and what a grid of the latent would break."""

from __future__ import annotations

import torch
from torch.nn import functional as F

SCALES = 3  # full, half and quarter size (ours)
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


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


def sobel_magnitude(image: torch.Tensor) -> torch.Tensor:
    """sqrt(gx^2 + gy^2 + 1e-6) of the mean over channels, (B,3,S,S) -> (B,1,S,S), zeros beyond the border.

    OSDFace's edge map (edge_aware_dists_demo.py).
    """
    along_x = image.new_tensor(_SOBEL)
    both = F.conv2d(image.mean(1, keepdim=True), torch.stack([along_x, along_x.T])[:, None], padding=1)
    return (both.square().sum(1, keepdim=True) + 1e-6).sqrt()
