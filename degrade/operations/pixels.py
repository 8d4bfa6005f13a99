"""Defines the two kinds of images, float32 RGB (H, W, 3) in 0..1 and uint8 RGB, and converts between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # RGB (H, W, 3), from 0 to 1.
Pixels = NDArray[np.uint8]  # RGB (H, W, 3), from 0 to 255.


_ONE = 0x3F800000  # the bits of 1.0 as float32


def is_in_range(image: Image) -> bool:
    """Returns whether every value of a float32 image is from 0 to 1. NaN is not in the range.

    The bits of a float32 from +0 to 1, read as a whole number, are at most the bits of 1. The bits of any other float32
    are larger, also those of -0. A maximum of whole numbers takes less time than a minimum and a maximum of floats.
    """
    return bool(image.view(np.uint32).max() <= _ONE) or bool(image.min() >= 0 and image.max() <= 1)


def to_uint8(image: Image) -> Pixels:
    """Clips to 0..1 and rounds to 8 bits, as the last line of GFPGAN's data set does.

    Halves are rounded to even numbers, as in torch and OpenCV.
    """
    if image.size == 0 or image.ndim == 0 or image.dtype != np.float32:
        return np.clip(np.rint(image * np.float32(255)), 0, 255).astype(np.uint8)
    flat = np.ascontiguousarray(image).reshape(len(image), -1)
    if flat.view(np.int32).min() < 0:  # cv2.convertScaleAbs would turn a negative value into a positive value
        flat = np.maximum(flat, 0)
    return np.asarray(cv2.convertScaleAbs(flat, alpha=255), np.uint8).reshape(image.shape)


def to_float(pixels: Pixels) -> Image:
    """Converts uint8 to float32 in 0..1."""
    return np.asarray(np.divide(pixels, np.float32(255), dtype=np.float32))


def quantise(image: Image) -> Image:
    """Clips to 0..1 and rounds to 8 bits. Saving an image as an 8-bit file clips and rounds in the same way."""
    return to_float(to_uint8(image))


def shrink(pixels: Pixels, size: int | None) -> Pixels:
    """Area-resizes a uint8 RGB image (H, W, 3) so that its longer side is `size` pixels.

    Returns the image unchanged if its longer side is at most `size`, or if `size` is None. Frozen sets shrink a 512 px
    crop with this function and then degrade the crop. The shrunk crop is also the target of the restored face.
    """
    height, width = pixels.shape[:2]
    if size is None or max(height, width) <= size:
        return pixels
    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA), np.uint8)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Hides the warnings that OpenCV writes to standard error. The errors of OpenCV are still raised."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
