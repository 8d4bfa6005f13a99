"""Limits the resolution of images, so that losses ignore detail that an enlarged target cannot have."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_RADIUS = 4  # radius of the kernel in pixels: three standard deviations of the Gaussian for u = 2.8


def limit_resolution(images: torch.Tensor, upsample: torch.Tensor) -> torch.Tensor:
    """Returns images (B,C,S,S), each blurred to the resolution of a photo that was enlarged by `upsample` (B,).

    Apply the function to the restored face and to its target. A loss between the two results then compares only the
    frequencies that the target really has. Let u be the enlargement. A photo pixel averages over a square, which has
    the variance u^2 / 12. Bilinear enlargement adds a triangle, which has the variance u^2 / 6. The Gaussian here has
    the variance (u^2 - 1) / 4 (ours), so an image that was not enlarged does not change.
    """
    variance = (upsample.float().square() - 1).clamp(min=0) / 4
    x = torch.arange(-_RADIUS, _RADIUS + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-x.square() / (2 * variance[:, None] + 1e-3))
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.dtype).repeat_interleave(images.shape[1], 0)
    flat = images.reshape(1, -1, *images.shape[-2:])
    flat = F.pad(flat, (_RADIUS,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=flat.shape[1])
    return F.conv2d(flat, kernel[:, None, :, None], groups=flat.shape[1]).reshape(images.shape)
