"""Limits the resolution of images, so that losses ignore detail that an enlarged target cannot have."""

from __future__ import annotations

import torch
from torch.nn import functional as F

# The radius of the kernel in pixels (ours). For an enlargement of 2.8, the radius is three standard deviations of the
# Gaussian.
_RADIUS = 4


# An image that was enlarged by at most this factor is not blurred. At this factor, the Gaussian would give the nearest
# pixels a weight of .0001.
LEAST_ENLARGED = 1.1


def find_enlarged(upsample: torch.Tensor) -> torch.Tensor:
    """Returns the indices (n,) int64 of the images that `limit_resolution` blurs, for `upsample` (B,)."""
    return (upsample > LEAST_ENLARGED).nonzero()[:, 0]


def limit_resolution(images: torch.Tensor, upsample: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Returns images (B,C,S,S), each blurred to the resolution of a photo that was enlarged by the factor `upsample`
    (B,).

    `rows` is the result of `find_enlarged(upsample)`. Without `rows`, the function computes it, and the CPU waits
    for the device.

    Apply the function to the restored face and to its target. A loss between the two results then compares only the
    frequencies that the target really has. Let u be the factor. A pixel of the photo is an average over a square, which
    has the variance u^2 / 12. Bilinear enlargement convolves with a triangle, which has the variance u^2 / 6. The two
    together have the variance u^2 / 4. The Gaussian has the variance (u^2 - 1) / 4 (ours), which is 0 for an image that
    was not enlarged.
    """
    rows = find_enlarged(upsample) if rows is None else rows
    if not len(rows):
        return images
    return images.index_copy(0, rows, _blur(images[rows], upsample[rows]))


def _blur(images: torch.Tensor, upsample: torch.Tensor) -> torch.Tensor:
    variance = (upsample.float().square() - 1) / 4
    x = torch.arange(-_RADIUS, _RADIUS + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-x.square() / (2 * variance[:, None]))
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.dtype).repeat_interleave(images.shape[1], 0)
    flat = images.reshape(1, -1, *images.shape[-2:])
    flat = F.pad(flat, (_RADIUS,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=flat.shape[1])
    return F.conv2d(flat, kernel[:, None, :, None], groups=flat.shape[1]).reshape(images.shape)
