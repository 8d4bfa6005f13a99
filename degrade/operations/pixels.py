"""8 bits and back, and what a picture is here: float32 RGB (H, W, 3) in 0..1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def to_uint8(image: Image) -> Pixels:
    """Clip to 0..1 and round to 8 bits, halves to even as torch and OpenCV round (GFPGAN's last line)."""
    if image.size == 0 or image.ndim == 0 or image.dtype != np.float32:
        return np.clip(np.rint(image * np.float32(255)), 0, 255).astype(np.uint8)
    if not image.min() >= 0:  # convertScaleAbs multiplies, rounds and saturates, and takes the absolute value before
        image = np.maximum(image, 0)
    flat = np.ascontiguousarray(image).reshape(len(image), -1)
    return np.asarray(cv2.convertScaleAbs(flat, alpha=255), np.uint8).reshape(image.shape)


def to_float(pixels: Pixels) -> Image:
    """uint8 to float32 in 0..1."""
    image = pixels.astype(np.float32)
    image /= np.float32(255)
    return image


def quantise(image: Image) -> Image:
    """Clip to 0..1 and round to 8 bits: what writing a file in the middle of a chain does."""
    return to_float(to_uint8(image))


def shrink(pixels: Pixels, size: int | None) -> Pixels:
    """uint8 RGB (H, W, 3), area-resized so that its longer side is `size`; a smaller picture, or None, stays as it is.

    Frozen sets degrade a 512 px crop after this, and its result is the target to compare a restored face with.
    """
    height, width = pixels.shape[:2]
    if size is None or max(height, width) <= size:
        return pixels
    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA), np.uint8)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV's warnings, which it writes to standard error itself, are not shown; errors are raised as ever."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
