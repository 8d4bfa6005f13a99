"""Resizes images with OpenCV's bilinear, bicubic and area interpolation, with torch's pooling or MATLAB's imresize.

`resize_taps` and `resize_matrix` return the 1-D weights of the interpolation.
"""

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
    """Resizes to (height, width) without clipping.

    `bilinear`, `bicubic` and `area` are interpolations of OpenCV. Of OpenCV's methods, only `area` shrinks without
    aliasing. `pool` is torch's adaptive average pooling, which `torch.nn.functional.interpolate` calls `area`.
    `imresize` is MATLAB's antialiased bicubic interpolation, which super-resolution papers call "bicubic".
    """
    if interpolation in _OPENCV:
        return np.asarray(cv2.resize(image, (width, height), interpolation=_OPENCV[interpolation]), np.float32)
    rows = _resize_rows(image, height, interpolation)
    return _resize_rows(rows.transpose(1, 0, 2), width, interpolation).transpose(1, 0, 2)


def downsampled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """Returns int(side // factor) for both sides, as GFPGAN does. The minimum of one pixel for a side is ours."""
    return max(1, int(height // factor)), max(1, int(width // factor))


def downsample(image: Image, factor: float, interpolation: str) -> Image:
    """Resizes to `downsampled_size` without clipping. A factor below 1 enlarges the image."""
    height, width = downsampled_size(image.shape[0], image.shape[1], factor)
    return resize(image, height, width, interpolation)


def _resize_rows(image: Image, rows: int, interpolation: str) -> Image:
    index, weight = resize_taps(image.shape[0], rows, interpolation)
    starts = np.arange(rows + 1) * index.shape[1]
    matrix = sparse.csr_array((weight.astype(np.float32).ravel(), index.ravel(), starts), (rows, image.shape[0]))
    flat = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    # scipy's sparse product adds the taps in order. BLAS would add in an order that depends on the processor.
    return np.asarray(matrix @ flat, np.float32).reshape(rows, *image.shape[1:])


# --- weights ---


def _imresize_taps(count: int, rows: int) -> tuple[Index, Weights]:
    """Returns the weights of MATLAB's imresize.

    The weights are Keys' cubic with a = -0.5. To shrink an image, the cubic function is widened. The border of the
    image is mirrored.
    """
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
    """Returns INTER_AREA's weights for shrinking: the share of each input pixel in the area of the output pixel.

    The sum of a row is 1, or up to 0.002 less: OpenCV ignores a part of an input pixel below 1/1000, and does not
    divide by the smaller sum.
    """
    scale = count / rows
    low = np.arange(rows) * scale
    high = np.minimum(low + scale, count)
    first = np.floor(low + 1e-3).astype(np.int64)
    index = first[:, None] + np.arange(math.ceil(scale) + 1)
    weight = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
    weight = np.where(weight > 1e-3, weight, 0.0)
    return np.minimum(index, count - 1), weight / (high - low)[:, None]


def _pool_taps(count: int, rows: int) -> tuple[Index, Weights]:
    """Returns the weights of torch's adaptive average pooling.

    An output pixel is the mean of all input pixels that its area touches. A pixel that the area touches in part has the
    same weight as a pixel inside the area.
    """
    row = np.arange(rows)
    first, end = row * count // rows, -(-(row + 1) * count // rows)
    index = first[:, None] + np.arange((end - first).max())
    weight = np.where(index < end[:, None], 1.0, 0.0)
    return np.minimum(index, count - 1), weight / weight.sum(axis=1, keepdims=True)


def resize_taps(count: int, rows: int, interpolation: str, *, enlarges: bool | None = None) -> tuple[Index, Weights]:
    """Returns the indices and the weights of the pixels that `resize` reads along one axis.

    `resize` turns `count` input pixels into `rows` output pixels. Each output pixel has one row of input indices and
    one row of weights. The input indices are int64 (rows, taps). The weights are float64 (rows, taps). Each row has the
    sum 1; for `area`, the sum can be up to 0.002 less. At the border, a row can contain an index twice.

    `area` has other weights for enlarging than for shrinking. If one axis of an image grows, OpenCV enlarges on both
    axes. `enlarges` says whether an axis of the image grows; None means `rows` > `count`. The other interpolations
    ignore `enlarges`.
    """
    if interpolation == "imresize":
        return _imresize_taps(count, rows)
    if interpolation == "pool":
        return _pool_taps(count, rows)
    scale = count / rows
    if interpolation == "area" and not (rows > count if enlarges is None else enlarges):
        return _area_taps(count, rows)
    # If `area` enlarges, an output pixel that lies inside one input pixel has the value of this input pixel. Any other
    # output pixel is a weighted mean of two input pixels, also on an axis that shrinks.
    if interpolation == "area":
        # OpenCV multiplies by the rounded inverse of `enlargement`, and rounds the part to float32. Without these two
        # roundings, exact ratios would give other pixels.
        enlargement = rows / count
        first = np.floor(np.arange(rows) * (1 / enlargement)).astype(np.int64)
        part = ((np.arange(rows) + 1) - (first + 1) * enlargement).astype(np.float32).astype(np.float64)
        part = np.where(part <= 0, 0.0, part - np.floor(part))
    else:
        place = (np.arange(rows) + 0.5) * scale - 0.5
        first = np.floor(place).astype(np.int64)
        part = place - first
    if interpolation == "bicubic":  # the weights are Keys' cubic with a = -0.75, and the border pixel is repeated
        index, a = first[:, None] + np.arange(-1, 3), -0.75
        x = np.abs(part[:, None] - np.arange(-1, 3))
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        weight = np.where(x <= 1, near, far)
        return np.clip(index, 0, count - 1), weight / weight.sum(axis=1, keepdims=True)
    index = first[:, None] + np.arange(2)
    return np.clip(index, 0, count - 1), np.stack([1 - part, part], axis=1)


def resize_matrix(length_in: int, length_out: int, interpolation: str, *, enlarges: bool | None = None) -> Weights:
    """Returns one axis of `resize` as a float64 matrix (length_out, length_in).

    With one matrix for the rows and one for the columns, the resized image is rows @ image @ columns.T. `resize_taps`
    explains `enlarges`.
    """
    index, weight = resize_taps(length_in, length_out, interpolation, enlarges=enlarges)
    matrix = np.zeros((length_out, length_in))
    np.add.at(matrix, (np.arange(length_out)[:, None], index), weight)
    return matrix
