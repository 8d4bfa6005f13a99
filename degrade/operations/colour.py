"""Changes the colours of an image in the same ways as GFPGAN."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from degrade.operations.pixels import Image


def shift(image: Image, red: float, green: float, blue: float) -> Image:
    """Adds a constant to each channel and clips to 0..1 (GFPGAN: color_jitter)."""
    planes = zip(cv2.split(image), (red, green, blue), strict=True)
    shifted = [np.clip(plane + np.float32(amount), 0, 1) for plane, amount in planes]
    return np.asarray(cv2.merge(shifted), np.float32)


def gray(image: Image) -> Image:
    """Returns the BT.601 luma in all three channels (GFPGAN: cv2.COLOR_BGR2GRAY).

    The luma of values in 0..1 needs no clipping.
    """
    return np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)[..., None], 3, axis=2)


def _luma(image: Image) -> Image:
    # The weights are from torchvision's rgb_to_grayscale. OpenCV's weight of red is 0.299 instead of 0.2989.
    red, green, blue = cv2.split(image)
    return np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue


def _blend(image: Image, other: Any, factor: float) -> Image:
    return np.clip(np.float32(factor) * image + np.float32(1 - factor) * other, 0, 1)


def brightness(image: Image, factor: float) -> Image:
    """Multiplies by `factor` and clips to 0..1 (torchvision: adjust_brightness)."""
    return np.clip(image * np.float32(factor), 0, 1)


def contrast(image: Image, factor: float) -> Image:
    """Blends the image with its mean luma and clips to 0..1 (torchvision: adjust_contrast)."""
    return _blend(image, np.float32(_luma(image).mean(dtype=np.float64)), factor)


def saturation(image: Image, factor: float) -> Image:
    """Blends the image with its luma and clips to 0..1 (torchvision: adjust_saturation)."""
    luma = _luma(image) * np.float32(1 - factor)
    planes = [np.clip(np.float32(factor) * plane + luma, 0, 1) for plane in cv2.split(image)]
    return np.asarray(cv2.merge(planes), np.float32)


def hue(image: Image, factor: float) -> Image:
    """Clips to 0..1 and then turns the hue by `factor`, which is -0.5 to 0.5 of a circle (torchvision: adjust_hue)."""
    hsv = np.asarray(cv2.cvtColor(np.clip(image, 0, 1), cv2.COLOR_RGB2HSV), np.float32)
    degrees = hsv[..., 0] + np.float32(360 * factor)  # -180 to 540
    degrees -= np.float32(360) * (degrees >= 360)
    degrees += np.float32(360) * (degrees < 0)
    hsv[..., 0] = degrees
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
