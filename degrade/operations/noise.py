"""Noise that is drawn again from the seed inside its step: numpy's PCG64, one generator a step, nothing global."""

from __future__ import annotations

import math

import cv2
import numpy as np

from degrade.operations.pixels import Image, to_uint8


def noise(image: Image, sigma: float, gray: bool, seed: int) -> Image:
    """Add Gaussian noise of `sigma`/255 and clip to 0..1 without rounding (BasicSR: clip=True, rounds=False).

    The numbers are numpy's PCG64 seeded with `seed` alone, float32, in the picture's order; `gray` uses one per pixel.
    """
    shape = (*image.shape[:2], 1) if gray else image.shape
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(sigma / 255)
    return _added(image, drawn)


def poisson(image: Image, scale: float, gray: bool, seed: int) -> Image:
    """Add shot noise, `scale` times what a sensor of as many levels as the picture has would show, and clip to 0..1.

    BasicSR generate_poisson_noise: levels = the next power of two over the number of different 8-bit values; the
    noise is Poisson(value * levels) / levels - value of the picture rounded to 8 bits, or of its luma where `gray`.
    The numbers are numpy's PCG64 seeded with `seed` alone, in the picture's order.
    """
    source = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)[..., None] if gray else image
    pixels = to_uint8(source)
    levels = 2.0 ** math.ceil(math.log2(np.count_nonzero(np.bincount(pixels.ravel(), minlength=256))))
    expected = pixels * (levels / 255)
    drawn = np.random.Generator(np.random.PCG64(seed)).poisson(expected)
    added = np.asarray((drawn - expected) * (scale / levels), np.float32)
    return _added(image, added)


def _added(image: Image, drawn: Image) -> Image:
    """Clipped sum, in the memory of `drawn` where it is large enough."""
    total = np.add(image, drawn, out=drawn if drawn.shape == image.shape else None)
    return np.asarray(np.clip(total, 0, 1, out=total), np.float32)
