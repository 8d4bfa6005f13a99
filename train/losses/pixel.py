"""Losses between pixels: differences, edges, and structural similarity over scales."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

SCALES = 3  # full, half and quarter size (ours)
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


WINDOW = 11  # pixels: the Gaussian window's side
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # by scale, finest first (Wang et al. 2003)


def pixel_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of (B,3,S,S) images in 0..1."""
    return (restored - target).abs().mean()


def mse_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of (B,3,S,S) images in 0..1 (OSDFace's L_MSE; on which range was not published)."""
    return (restored - target).square().mean()


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


def ms_ssim_exponents(size: int) -> tuple[float, ...]:
    """The exponents of the scales that torchmetrics takes at `size` pixels, divided by their sum (ours).

    All five from 176 px, four at 128, three at 64, none below 11.
    """
    fitting = [e for scale, e in enumerate(EXPONENTS) if size // max(1 << scale, scale**2) >= WINDOW]
    return tuple(exponent / sum(fitting) for exponent in fitting)


def ms_ssim_loss(restored: torch.Tensor, target: torch.Tensor, exponents: tuple[float, ...]) -> torch.Tensor:
    """1 - MS-SSIM (Wang et al. 2003) of (B,3,S,S) images in 0..1, averaged over the batch.

    An image that is anticorrelated with its target at some scale has the loss 1 and no gradient.
    """
    return 1 - multiscale_structural_similarity_index_measure(restored, target, data_range=1.0, betas=exponents)
