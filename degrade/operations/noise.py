"""Adds noise. Each noise step makes its own random generator, a numpy PCG64, from the seed of the step."""

from __future__ import annotations

import math

import cv2
import numpy as np

from degrade.operations.pixels import Image, to_uint8


def noise(image: Image, sigma: float, gray: bool, seed: int) -> Image:
    """Adds Gaussian noise of `sigma`/255 and clips to 0..1 without rounding (BasicSR: clip=True, rounds=False).

    The numbers are float32 draws of numpy's PCG64 with the seed `seed`, in the memory order of the image. If `gray` is
    True, all three channels of a pixel share one random number.
    """
    shape = (*image.shape[:2], 1) if gray else image.shape
    numbers = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    numbers *= np.float32(sigma / 255)
    return _add_and_clip(image, numbers)


def poisson(image: Image, scale: float, gray: bool, seed: int) -> Image:
    """Adds shot noise, multiplied by `scale`, and clips to 0..1 without rounding (BasicSR: generate_poisson_noise).

    The noise of a value is Poisson(value * levels) / levels - value. A value is a channel of a pixel, or the luma of a
    pixel if `gray` is True, rounded to 8 bits. `levels` is the number of different 8-bit values in the image, rounded
    up to a power of two. The numbers are draws of numpy's PCG64 with the seed `seed`, in the memory order of the image.
    """
    source = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)[..., None] if gray else image
    pixels = to_uint8(source)
    levels = 2.0 ** math.ceil(math.log2(np.count_nonzero(np.bincount(pixels.ravel(), minlength=256))))
    expected = pixels * (levels / 255)
    counts = np.random.Generator(np.random.PCG64(seed)).poisson(expected)
    numbers = np.asarray((counts - expected) * (scale / levels), np.float32)
    return _add_and_clip(image, numbers)


def _add_and_clip(image: Image, numbers: Image) -> Image:
    """Returns image + numbers, clipped to 0..1. If `numbers` has the shape of `image`, the result is in the memory of
    `numbers`.
    """
    total = np.add(image, numbers, out=numbers if numbers.shape == image.shape else None)
    return np.asarray(np.clip(total, 0, 1, out=total), np.float32)
