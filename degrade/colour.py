"""Colour, as GFPGAN jitters its inputs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from degrade.pixels import Image


def shift(image: Image, red: float, green: float, blue: float) -> Image:
    """Add a constant to each channel and clip to 0..1 (GFPGAN color_jitter)."""
    return np.clip(image + np.array([red, green, blue], np.float32), 0, 1)


def gray(image: Image) -> Image:
    """BT.601 luma in all three channels (GFPGAN: cv2.COLOR_BGR2GRAY); no clipping needed."""
    return np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)[..., None], 3, axis=2)


def _luma(image: Image) -> Image:
    # torchvision's rgb_to_grayscale, whose 0.2989 differs from OpenCV's 0.299
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue


def _blend(image: Image, other: Any, factor: float) -> Image:
    return np.clip(np.float32(factor) * image + np.float32(1 - factor) * other, 0, 1)


def brightness(image: Image, factor: float) -> Image:
    """Multiply and clip to 0..1 (torchvision adjust_brightness)."""
    return np.clip(image * np.float32(factor), 0, 1)


def contrast(image: Image, factor: float) -> Image:
    """Blend with the mean luma and clip to 0..1 (torchvision adjust_contrast)."""
    return _blend(image, np.float32(_luma(image).mean(dtype=np.float64)), factor)


def saturation(image: Image, factor: float) -> Image:
    """Blend with the luma and clip to 0..1 (torchvision adjust_saturation)."""
    return _blend(image, _luma(image)[..., None], factor)


def hue(image: Image, factor: float) -> Image:
    """Turn the hue by `factor` of a full circle, -0.5..0.5 (torchvision adjust_hue); the picture is clipped before."""
    hsv = np.asarray(cv2.cvtColor(np.clip(image, 0, 1), cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 0] = np.mod(hsv[..., 0] + np.float32(360 * factor), np.float32(360))
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
