"""Damages the crops of faces until a recognizer cannot recognise the people."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

# The strengths of the damages are ours. We compared MobileFaceNet's embeddings of 700 web photos before and after each
# damage. For each damage, the mean cosine of the two embeddings was between .02 and .25. These four damages are enough
# to calibrate the worth of faces (worth.py): nine other damages, for example a turn upside down, also gave faces a low
# worth (docs/grouping.md).
_BLUR = 0.04  # Standard deviation of the blur, as a share of the side of the crop.
_BLOCKS = 16  # Number of blocks of one colour along a side of the crop.
_NOISE = 50.0  # Standard deviation of the noise, in levels of 0..255.


def blur(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a blurred copy of a crop, uint8 (s, s, 3)."""
    return cv2.GaussianBlur(crop, (0, 0), _BLUR * crop.shape[0])


def pixelate(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a copy of a crop, uint8 (s, s, 3), that consists of 16 x 16 blocks of one colour each."""
    small = cv2.resize(crop, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def add_noise(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a copy of a crop, uint8 (s, s, 3), with strong noise."""
    noisy: np.ndarray = crop + rng.normal(0, _NOISE, crop.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def draw(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a pencil drawing of a crop, uint8 (s, s, 3)."""
    gray, _ = cv2.pencilSketch(np.ascontiguousarray(crop), sigma_s=60, sigma_r=0.07, shade_factor=0.05)
    return np.repeat(gray[:, :, None], 3, axis=2)


DAMAGES: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (blur, pixelate, add_noise, draw)
