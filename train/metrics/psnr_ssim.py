"""Full-reference image metrics, from torchmetrics, one figure an image."""

from __future__ import annotations

import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from train.losses.pixel import WINDOW, ms_ssim_exponents


def psnr(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB over RGB, for (B, 3, S, S) in 0..1; higher is better. Equal images give 100."""
    values = peak_signal_noise_ratio(restored, target, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return [min(float(value), 100.0) for value in values]


def ssim(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Structural similarity (Wang et al. 2004, 11 x 11 Gaussian window of sigma 1.5, mean over RGB), for (B, 3, S, S)
    in 0..1; higher is better. S must be 11 or more.

    Over the places where the whole window lies in the image, as Wang, scikit-image and BasicSR have it; torchmetrics'
    own mean takes in the borders, mirrored, and is another figure (.05 less on noise at 64 px). In single precision,
    2e-6 off on photos and 2e-5 where all is bright and flat; double would take ten times as long (ours).
    """
    _, places = structural_similarity_index_measure(
        restored, target, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    return [float(value) for value in places[..., inside, inside].mean((1, 2, 3))]


def ms_ssim(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
    """SSIM over scales (Wang et al. 2003), for (B, 3, S, S) in 0..1; higher is better. S must be 11 or more.

    Below 176 px it has as many of the five scales as fit, see train.losses.pixel.ms_ssim_exponents. A scale whose
    contrast term is negative makes it 0. torchmetrics' own: borders are left out at every scale but the last.
    """
    exponents = ms_ssim_exponents(restored.shape[-1])
    values = multiscale_structural_similarity_index_measure(
        restored, target, data_range=1.0, betas=exponents, reduction="none"
    )
    return [float(value) for value in torch.atleast_1d(values)]
