"""Structural similarity over scales."""

from __future__ import annotations

import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

WINDOW = 11  # pixels: the Gaussian window's side
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # by scale, finest first (Wang et al. 2003)


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
