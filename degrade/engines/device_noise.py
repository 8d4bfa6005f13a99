"""Adds the noise of the torch engine, with random numbers that the device of the images draws.

The noise has the same distribution as in the exact engine, but other numbers. The same image and the same step give the
same noise again on the same machine. A GPU of another model may draw other numbers. Every function gets N images of
equal size, (N, 3, H, W), and their N steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degrade.theta import Step


def add_noise(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Adds Gaussian noise and clips to 0..1, like `degrade.operations.noise.noise`."""
    noise = []
    for step in steps:
        shape = (1 if step["gray"] else 3, *images.shape[-2:])
        numbers = torch.randn(shape, generator=_seeded(step, images), device=images.device, dtype=images.dtype)
        noise.append((numbers * (step["sigma"] / 255)).expand(3, -1, -1))
    return (images + torch.stack(noise)).clamp(0, 1)


def add_poisson(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Adds shot noise and clips to 0..1, like `degrade.operations.noise.poisson`.

    The gradient treats the noise as a constant.
    """
    noise = []
    for image, step in zip(images.detach(), steps, strict=True):
        if step["gray"]:  # OpenCV's weights of the luma
            image = (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None]
        pixels = (image * 255).round().clamp(0, 255)
        # `levels` is the number of different 8-bit values in the image, rounded up to a power of two. `levels` stays on
        # the device, so the CPU does not wait. The logarithm of a power of two may be a little too large, so a small
        # number is subtracted.
        seen = pixels.new_zeros(256, dtype=torch.float64).index_fill_(0, pixels.long().flatten(), 1)
        levels = torch.exp2(torch.ceil(torch.log2(seen.sum()) - 1e-9)).to(image.dtype)
        expected = pixels * (levels / 255)
        counts = torch.poisson(expected, generator=_seeded(step, images))
        noise.append(((counts - expected) * (step["scale"] / levels)).expand(3, -1, -1))
    return (images + torch.stack(noise)).clamp(0, 1)


def _seeded(step: Step, images: Tensor) -> torch.Generator:
    return torch.Generator(images.device).manual_seed(step["seed"])
