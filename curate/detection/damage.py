"""Damages the crops of faces until a recognizer sees nobody in them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

# The damages leave a mean cosine of .02 to .25 between a damaged face and the same face before the damage (ours,
# MobileFaceNet, 700 web photos). The damages were chosen because four different ones are enough: faces with nine other
# damages, for example drawn edges or a face upside down, are recognised as poor too (docs/grouping.md).
_BLUR = 0.04  # standard deviation of the blur, as a share of the side of the crop
_BLOCKS = 16  # number of blocks of one colour along a side of the crop
_NOISE = 50.0  # standard deviation of the noise, 0 to 255


def blur(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a crop, uint8 (s, s, 3), that is out of focus."""
    return cv2.GaussianBlur(crop, (0, 0), _BLUR * crop.shape[0])


def pixelate(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a crop, uint8 (s, s, 3), of blocks of one colour."""
    small = cv2.resize(crop, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def add_noise(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a crop, uint8 (s, s, 3), with strong noise."""
    noisy: np.ndarray = crop + rng.normal(0, _NOISE, crop.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def draw(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a pencil drawing of a crop, uint8 (s, s, 3)."""
    gray, _ = cv2.pencilSketch(np.ascontiguousarray(crop), sigma_s=60, sigma_r=0.07, shade_factor=0.05)
    return np.repeat(gray[:, :, None], 3, axis=2)


DAMAGES: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (blur, pixelate, add_noise, draw)
