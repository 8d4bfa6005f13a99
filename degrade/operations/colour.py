"""Changes the colours of an image in the same ways as GFPGAN.

Every function returns a new image. Most lines compute in the memory of an earlier result, because new memory for a
large image takes as much time as the arithmetic.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from degrade.operations.pixels import Image, is_in_range

# The weights of the luma are from torchvision's rgb_to_grayscale. OpenCV's weight of red is 0.299 instead of 0.2989.
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)
_ROWS = 32  # The luma is computed in bands of this number of rows (ours), because a band fits into the cache of a core.


def _clip(image: NDArray[np.float32]) -> Image:
    """Clips to 0..1 in place, and returns the image."""
    return np.clip(image, 0, 1, out=image)


def shift(image: Image, red: float, green: float, blue: float) -> Image:
    """Adds a constant to each channel and clips to 0..1 (GFPGAN: color_jitter)."""
    amounts = np.tile(np.array([red, green, blue], np.float32), image.shape[1])
    return _clip(image.reshape(len(image), -1) + amounts).reshape(image.shape)


def gray(image: Image) -> Image:
    """Returns the BT.601 luma in all three channels (GFPGAN: cv2.COLOR_BGR2GRAY).

    The luma of values in 0..1 needs no clipping.
    """
    return _repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32), image)


def _luma(image: Image) -> NDArray[np.float32]:
    """Returns the luma (H, W). The order of the sum is red, green, blue."""
    luma = np.empty(image.shape[:2], np.float32)
    weights = np.tile(_LUMA, image.shape[1])
    for first in range(0, len(image), _ROWS):
        band = image[first : first + _ROWS]
        products = (band.reshape(len(band), -1) * weights).reshape(band.shape)
        total = np.add(products[..., 0], products[..., 1], out=luma[first : first + _ROWS])
        total += products[..., 2]
    return luma


def _repeat(luma: NDArray[np.float32], image: Image) -> Image:
    """Returns the luma in all three channels of the shape of `image`."""
    return np.asarray(cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB), np.float32).reshape(image.shape)


def brightness(image: Image, factor: float) -> Image:
    """Multiplies by `factor` and clips to 0..1 (torchvision: adjust_brightness)."""
    return _clip(image * np.float32(factor))


def contrast(image: Image, factor: float) -> Image:
    """Blends the image with its mean luma and clips to 0..1 (torchvision: adjust_contrast)."""
    mean = np.float32(_luma(image).mean(dtype=np.float64))
    blended = np.float32(factor) * image
    blended += np.float32(1 - factor) * mean
    return _clip(blended)


def saturation(image: Image, factor: float) -> Image:
    """Blends the image with its luma and clips to 0..1 (torchvision: adjust_saturation)."""
    luma = _luma(image)
    luma *= np.float32(1 - factor)
    blended = np.float32(factor) * image
    blended += _repeat(luma, image)
    return _clip(blended)


def hue(image: Image, factor: float) -> Image:
    """Clips to 0..1 and then turns the hue by `factor`, which is -0.5 to 0.5 of a circle (torchvision: adjust_hue)."""
    clipped = image if is_in_range(image) else np.clip(image, 0, 1)
    hsv = np.asarray(cv2.cvtColor(clipped, cv2.COLOR_RGB2HSV), np.float32)
    degrees = np.asarray(cv2.extractChannel(hsv, 0), np.float32)
    degrees += np.float32(360 * factor)  # -180 to 540
    degrees -= np.float32(360) * (degrees >= 360)
    degrees += np.float32(360) * (degrees < 0)
    cv2.insertChannel(degrees, hsv, 0)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
