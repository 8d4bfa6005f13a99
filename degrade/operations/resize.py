"""Resizing: OpenCV's three interpolations, MATLAB's imresize, and the 1-D weights behind all four."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from degrade.operations.pixels import Image

_OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}

Weights = NDArray[np.float64]
Index = NDArray[np.int64]


def resize(image: Image, height: int, width: int, interpolation: str) -> Image:
    """Resize to (height, width), no clipping.

    bilinear, bicubic and area are OpenCV's, of which area alone does not alias when shrinking; `imresize` is the
    antialiased bicubic of MATLAB that super-resolution papers mean by "bicubic".
    """
    if interpolation != "imresize":
        return np.asarray(cv2.resize(image, (width, height), interpolation=_OPENCV[interpolation]), np.float32)
    return _imresize_rows(_imresize_rows(image, height).transpose(1, 0, 2), width).transpose(1, 0, 2)


def downsampled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """int(side // factor), as GFPGAN does, and never below one pixel (ours)."""
    return max(1, int(height // factor)), max(1, int(width // factor))


def downsample(image: Image, factor: float, interpolation: str) -> Image:
    """Resize to `downsampled_size`; a factor below 1 enlarges; no clipping."""
    height, width = downsampled_size(image.shape[0], image.shape[1], factor)
    return resize(image, height, width, interpolation)


def _imresize_rows(image: Image, rows: int) -> Image:
    index, weight = _imresize_taps(image.shape[0], rows)
    starts = np.arange(rows + 1) * index.shape[1]
    matrix = sparse.csr_array((weight.astype(np.float32).ravel(), index.ravel(), starts), (rows, image.shape[0]))
    flat = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    # scipy's product adds tap by tap; BLAS would sum in another order on another processor
    return np.asarray(matrix @ flat, np.float32).reshape(rows, *image.shape[1:])


# --- weights ---


def _imresize_taps(count: int, rows: int) -> tuple[Index, Weights]:
    """MATLAB's imresize: Keys' cubic, a = -0.5, widened when shrinking; the border is mirrored."""
    scale = rows / count
    stretch = min(scale, 1.0)
    centre = (np.arange(rows) + 0.5) / scale - 0.5
    taps = math.ceil(4 / stretch) + 2
    index = np.floor(centre - 2 / stretch).astype(np.int64)[:, None] + np.arange(taps)
    x = np.abs((centre[:, None] - index) * stretch)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
    weight = weight / weight.sum(axis=1, keepdims=True)
    index = index % (2 * count)
    return np.where(index < count, index, 2 * count - 1 - index), weight


def _area_taps(count: int, rows: int) -> tuple[Index, Weights]:
    """INTER_AREA when shrinking: the share of every pixel under the output pixel."""
    scale = count / rows
    low = np.arange(rows) * scale
    high = np.minimum(low + scale, count)
    first = np.floor(low + 1e-3).astype(np.int64)  # OpenCV drops a share below a thousandth of a pixel
    index = first[:, None] + np.arange(math.ceil(scale) + 1)
    weight = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
    weight = np.where(weight > 1e-3, weight, 0.0)
    return np.minimum(index, count - 1), weight / weight.sum(axis=1, keepdims=True)


def resize_taps(count: int, rows: int, interpolation: str) -> tuple[Index, Weights]:
    """What one axis of `resize` reads: for every output pixel the inputs (rows, taps) and their weights, float64.

    An input may be named twice (at borders); weights of a row sum to 1.
    """
    if interpolation == "imresize":
        return _imresize_taps(count, rows)
    scale = count / rows
    if interpolation == "area" and scale >= 1:
        return _area_taps(count, rows)
    if interpolation == "area":  # enlarging: a bilinear one that stays flat inside every old pixel
        first = np.floor(np.arange(rows) * scale).astype(np.int64)
        part = (np.arange(rows) + 1) - (first + 1) / scale
        part = np.where(part <= 0, 0.0, part - np.floor(part))
    else:
        place = (np.arange(rows) + 0.5) * scale - 0.5
        first = np.floor(place).astype(np.int64)
        part = place - first
    if interpolation == "bicubic":  # Keys' cubic, a = -0.75, the border repeated
        index, a = first[:, None] + np.arange(-1, 3), -0.75
        x = np.abs(part[:, None] - np.arange(-1, 3))
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        weight = np.where(x <= 1, near, far)
        return np.clip(index, 0, count - 1), weight / weight.sum(axis=1, keepdims=True)
    index = first[:, None] + np.arange(2)
    return np.clip(index, 0, count - 1), np.stack([1 - part, part], axis=1)


def resize_matrix(length_in: int, length_out: int, interpolation: str) -> Weights:
    """One axis of `resize` as a matrix (length_out, length_in), float64: resized = rows @ image @ columns.T."""
    index, weight = resize_taps(length_in, length_out, interpolation)
    matrix = np.zeros((length_out, length_in))
    np.add.at(matrix, (np.arange(length_out)[:, None], index), weight)
    return matrix
