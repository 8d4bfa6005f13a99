"""Computes losses between the pixels of two images: differences, edges, and structural similarity over scales."""

from __future__ import annotations

import torch
from torch.nn import functional as F

SCALES = 3  # The number of scales: full, half and quarter size (ours).
WINDOW = 11  # The side of the Gaussian window of MS-SSIM, in pixels.
# The exponents of MS-SSIM, one for each scale from the finest (Wang et al. 2003)
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The loss is quadratic for a difference below this number (ours) and linear for a larger difference. We also tried
# absolute differences: the model then changed degraded inputs too little (docs/train.md, What was tried).
LARGE_DIFFERENCE = 0.1
LARGE_STRENGTH = 0.02  # `detail_loss` is quadratic below this difference (ours) and linear above.
DETAIL_SQUARE = 16  # The side (ours) of the squares of `detail_loss`, in pixels.
# Added (ours) to a mean square, because a root has no finite gradient at 0. The root of the number is .8 levels of
# 0..255.
SMALL_SQUARE = 1e-5
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


# --- differences ---


def pixel_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the smooth L1 loss of images (B,3,S,S) in 0..1 (Huber 1964), a mean over all values.

    L is LARGE_DIFFERENCE. A difference d counts as d^2 / (2 L) if |d| is below L, and as |d| - L / 2 otherwise.
    """
    return F.smooth_l1_loss(restored, target, beta=LARGE_DIFFERENCE)


def mse_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean squared difference of images (B,3,S,S) in 0..1 (OSDFace's L_MSE).

    We have not seen whether OSDFace's images are in 0..1 or in -1..1. The loss of images in -1..1 is four times as
    large. A re-implementation (ManaswiYadamreddy/CRAFT) uses -1..1.
    """
    return (restored - target).square().mean()


# --- edges ---


def gradients(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the forward differences of (B,C,H,W) along x, (B,C,H,W-1), and along y, (B,C,H-1,W)."""
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


def edge_loss(restored: torch.Tensor, target: torch.Tensor, scales: int = SCALES) -> torch.Tensor:
    """Returns the mean difference of the gradients of images (B,3,S,S) in 0..1, over `scales` scales (ours).

    Differences count as in `pixel_loss`, with L = LARGE_DIFFERENCE / 2. Each scale has half the side of the scale
    before. With a pixel loss alone, edges stay soft.
    """
    total = restored.new_zeros(())
    for scale in range(scales):
        if scale:
            restored, target = F.avg_pool2d(restored, 2), F.avg_pool2d(target, 2)
        for a, b in zip(gradients(restored), gradients(target), strict=True):
            total = total + F.smooth_l1_loss(a, b, beta=LARGE_DIFFERENCE / 2) / (2 * scales)
    return total


def detail_loss(
    restored: torch.Tensor, target: torch.Tensor, counted: torch.Tensor | None = None, scales: int = SCALES
) -> torch.Tensor:
    """Returns the mean difference in the local strength of detail between images (B,3,S,S) in 0..1 (ours).

    `counted`, (B,) bool, is False for images that add 0 to the mean. Without `counted`, all images count.

    S is a multiple of DETAIL_SQUARE. At each scale, the detail is the part of the gray image that is lost when the side
    is halved. The strength is the root mean square of the detail in a square with a side of DETAIL_SQUARE pixels of the
    full image. Squares overlap by half. Differences count as in `pixel_loss`, with L = LARGE_STRENGTH. A pixel loss
    blurs a detail whose position is uncertain. `detail_loss` does not, because it ignores the position of a detail
    within a square.
    """
    total = restored.new_zeros(len(restored))
    restored, target = restored.mean(1, keepdim=True), target.mean(1, keepdim=True)
    for scale in range(scales):
        strength, wanted = (measure_strength(gray, DETAIL_SQUARE >> scale) for gray in (restored, target))
        differences = F.smooth_l1_loss(strength, wanted, beta=LARGE_STRENGTH, reduction="none")
        total = total + differences.mean((1, 2, 3)) / scales
        restored, target = F.avg_pool2d(restored, 2), F.avg_pool2d(target, 2)
    return (total if counted is None else total * counted).mean()


def measure_strength(gray: torch.Tensor, side: int) -> torch.Tensor:
    """Returns the strength of the finest detail of gray images (B,1,H,W) in squares of `side` pixels. See
    `detail_loss`.
    """
    coarse = F.interpolate(F.avg_pool2d(gray, 2), gray.shape[-2:], mode="bilinear", align_corners=False)
    return (F.avg_pool2d((gray - coarse).square(), side, side // 2) + SMALL_SQUARE).sqrt()


def sobel_magnitude(image: torch.Tensor) -> torch.Tensor:
    """Returns the edge map of OSDFace, (B,3,S,S) -> (B,1,S,S) (edge_aware_dists_demo.py).

    The edge map is sqrt(gx^2 + gy^2 + 1e-6), where gx and gy are the Sobel gradients of the mean over channels. Pixels
    beyond the border count as zero.
    """
    along_x = torch.tensor(_SOBEL, dtype=image.dtype).to(image.device, non_blocking=True)  # the CPU does not wait
    both = F.conv2d(image.mean(1, keepdim=True), torch.stack([along_x, along_x.T])[:, None], padding=1)
    return (both.square().sum(1, keepdim=True) + 1e-6).sqrt()


# --- structural similarity over scales ---


def ms_ssim_exponents(size: int) -> tuple[float, ...]:
    """Returns an exponent for each scale that torchmetrics can compute on images with a side of `size` pixels.

    The exponents are divided by their sum (ours). An image of 176 px or more has five scales, an image of 128 px has
    four, an image of 64 px has three, and an image below 11 px has no scale.
    """
    fitting = [e for scale, e in enumerate(EXPONENTS) if size // max(1 << scale, scale**2) >= WINDOW]
    return tuple(exponent / sum(fitting) for exponent in fitting)


def ms_ssim_loss(restored: torch.Tensor, target: torch.Tensor, exponents: tuple[float, ...]) -> torch.Tensor:
    """Returns 1 - MS-SSIM of images (B,3,S,S) in 0..1 (Wang et al. 2003), averaged over the batch.

    If an image is anticorrelated with its target at a scale, the loss of this image is 1 and has no gradient.
    """
    # Imported here, because the import takes a second, and most trainings do not use this loss.
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    return 1 - multiscale_structural_similarity_index_measure(restored, target, data_range=1.0, betas=exponents)
