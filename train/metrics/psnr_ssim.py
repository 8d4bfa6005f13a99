"""Computes PSNR, SSIM, MS-SSIM and VIF between a restored image and its target with torchmetrics.

torchmetrics is imported inside the functions, because the import takes seconds. An evaluation whose values are all in
the cache does not need torchmetrics.
"""

from __future__ import annotations

import math

import torch

from train.losses.pixel import WINDOW, ms_ssim_exponents


def describe_border(border: int) -> str:
    """Returns a sentence about how many pixels `crop_border` cuts off. The sentence does not end with a period."""
    if border == 0:
        return "No border is cut off (crop_border=0)"
    return f"{border} px are cut off at each side of the image first, as by BasicSR's crop_border={border}"


def crop_border(images: torch.Tensor, border: int) -> torch.Tensor:
    """Returns images (..., S, S) without `border` pixels at each side. 2 * `border` must be less than S."""
    return images[..., border : images.shape[-2] - border, border : images.shape[-1] - border]


def psnr(restored: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None) -> list[float]:
    """Returns the peak signal-to-noise ratio over RGB in dB, for images (B, 3, S, S) in 0..1; higher is better.

    `valid`, (B, 1, S, S) bool, is True for the pixels that are measured. None means all pixels. The value is 100 for
    equal images, and NaN for an image without a valid pixel.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    if valid is None:
        valid = torch.ones_like(restored[:, :1], dtype=torch.bool)
    values = []
    for one, other, mask in zip(restored, target, valid.expand_as(restored), strict=True):
        if not bool(mask.any()):
            values.append(math.nan)
            continue
        values.append(min(float(peak_signal_noise_ratio(one[mask], other[mask], data_range=1.0)), 100.0))
    return values


def ssim(restored: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None) -> list[float]:
    """Returns the structural similarity of images (B, 3, S, S) in 0..1; higher is better. S must be at least 11.

    `valid`, (B, 1, S, S) bool, is True for the pixels at which a window is centred. None means all pixels. The value is
    NaN if no window is left.

    The window is a Gaussian of 11 x 11 pixels with sigma 1.5, and the result is the mean over RGB (Wang et al. 2004).
    As in the code of Wang, scikit-image and BasicSR, windows that cross the border of the image are left out. The mean
    of torchmetrics includes these windows, with a mirrored border. On noise at 64 px, the mean of torchmetrics is .05
    lower than ours. The error of single precision is 2e-6 on photos and 2e-5 on bright flat images (measured by us).
    Double precision would take ten times as long.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, places = structural_similarity_index_measure(
        restored, target, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    if valid is None:
        return [float(value) for value in places[..., inside, inside].mean((1, 2, 3))]
    mask = valid[..., inside, inside].to(places.dtype)
    total = (places[..., inside, inside] * mask).sum((1, 2, 3)) / places.shape[1]
    return [float(value) for value in total / mask.sum((1, 2, 3))]


def psnr_y(restored: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None) -> list[float]:
    """Returns `psnr` of the luma Y of images (B, 3, S, S) in 0..1."""
    return psnr(to_luma(restored), to_luma(target), valid)


def ssim_y(restored: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None) -> list[float]:
    """Returns `ssim` of the luma Y of images (B, 3, S, S) in 0..1. S must be at least 11."""
    return ssim(to_luma(restored), to_luma(target), valid)


def to_luma(images: torch.Tensor) -> torch.Tensor:
    """Returns the luma Y (B, 1, S, S) of RGB images (B, 3, S, S) in 0..1 (ITU-R BT.601, as in BasicSR and MATLAB).

    Black is 16/255 and white is 235/255. The values are not rounded.
    """
    weights = images.new_tensor([65.481, 128.553, 24.966])[:, None, None]
    return ((images * weights).sum(1, keepdim=True) + 16) / 255


def ms_ssim(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Returns the multi-scale SSIM of images (B, 3, S, S) in 0..1 (Wang et al. 2003); higher is better.

    S must be at least 11. Below 176 px, only the scales that fit are used (train.losses.pixel.ms_ssim_exponents). If
    the contrast term of a scale is negative, the result is 0. As in torchmetrics, borders are left out at every scale
    except the last.
    """
    exponents = ms_ssim_exponents(restored.shape[-1])
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    values = multiscale_structural_similarity_index_measure(
        restored, target, data_range=1.0, betas=exponents, reduction="none"
    )
    return [float(value) for value in torch.atleast_1d(values)]


def vif(restored: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Returns the visual information fidelity of images (B, 3, S, S) in 0..1 (Sheikh and Bovik 2006); higher is better.

    The value is the share of the target's information that the restored image still has. torchmetrics computes the
    value in the pixel domain over RGB in 8 bits. S must be at least 41. The value is 1 for equal images.
    """
    from torchmetrics.functional.image import visual_information_fidelity

    values = visual_information_fidelity(restored * 255, target * 255, reduction="none")
    return [float(value) for value in torch.atleast_1d(values)]
