"""Blur, plain and fast, and the blur and downsample that are one.

Plain is OpenCV's filter, pixel by pixel. Fast is the same sum in another order: the kernel as a few separable passes
(`kernels.separable`), each pass multiplied with the resize that follows, so that one sparse product an axis yields the
small picture and no pixel that the resize would skip is ever computed:

    small = sum over r of (D_y C_r) X (D_x R_r)^T        D: resize, C_r and R_r: 1-D filters, X: the picture

Its sums are scipy's CSR product: a plain loop, compiled once for all x86-64, that adds in the order of the taps. BLAS
would add in an order of the processor's choice, so it decides no bit here.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

from degrade.operations.kernels import TOLERANCE, Kernel, gaussian_line, make_kernel, separate_kernel, support_radius
from degrade.operations.pixels import Image
from degrade.operations.resize import downsampled_size, resize, resize_taps
from degrade.theta import Step


def blur(image: Image, kernel: str, size: int, **shape: float) -> Image:
    """Blur with a mirrored border (OpenCV's default, as in BasicSR), plain; no clipping.

    `shape` holds what the kernel needs: sigma_x, sigma_y, angle, beta, cutoff, length. The border is mirrored without
    repeating the edge, again and again where the picture is smaller than the kernel; one pixel repeats itself. `iso`
    uses sigma_x alone and runs as two 1-D passes, which is the same product.
    """
    if kernel == "iso":
        line = gaussian_line(size, shape["sigma_x"])
        return np.asarray(cv2.sepFilter2D(image, -1, line, line), np.float32)
    step: dict[str, Any] = {"kernel": kernel, "size": size, **shape}
    return np.asarray(cv2.filter2D(image, -1, make_kernel(step)), np.float32)


def fast_blur(image: Image, step: Step, then: Step | None = None) -> Image:
    """A checked blur step and, with `then`, the downsample step after it; no clipping.

    Within 0.25/255 (seen: 0.09) of `blur` and `downsample`; OpenCV does the work where the passes would cost more.
    """
    height, width = image.shape[:2]
    out_height, out_width = downsampled_size(height, width, then["factor"]) if then else (height, width)
    shape = (out_height, out_width)
    most = _passes_worth(image, step, shape)
    passes = separate_kernel(step, most) if most else None
    if passes is None:
        kernel = _cut_kernel(step) if step["kernel"] != "iso" else None
        if kernel is not None and not _direct(len(kernel)):
            return _fourier_blur(image, kernel, then)
        blurred = _cut_blur(image, step)
        return resize(blurred, out_height, out_width, then["interpolation"]) if then else blurred
    interpolation = then["interpolation"] if then else None
    columns, rows = passes
    down = _banded(columns, height, shape[0], interpolation)
    same = columns is rows and (height, shape[0]) == (width, shape[1])
    across = down if same else _banded(rows, width, shape[1], interpolation)
    flat = np.ascontiguousarray(image).reshape(height, width * 3)
    total: NDArray[np.float32] | None = None
    for d, a in zip(down, across, strict=True):
        turned = cv2.transpose((d @ flat).reshape(shape[0], width, 3))
        part = a @ np.asarray(turned, np.float32).reshape(width, shape[0] * 3)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None  # a kernel has at least one pass
    return np.asarray(cv2.transpose(total.reshape(shape[1], shape[0], 3)), np.float32).reshape(*shape, 3)


def _cut_blur(image: Image, step: Step) -> Image:
    """`blur` without the border of the kernel that weighs nothing: OpenCV is fast up to 11 x 11."""
    middle = step["size"] // 2
    if step["kernel"] == "iso":
        line = gaussian_line(step["size"], step["sigma_x"])
        half = support_radius(np.outer(line, line), TOLERANCE / 8)
        line = line[middle - half : middle + half + 1]
        return np.asarray(cv2.sepFilter2D(image, -1, line, line), np.float32)
    return np.asarray(cv2.filter2D(image, -1, _cut_kernel(step)), np.float32)


def _cut_kernel(step: Step) -> Kernel:
    kernel = make_kernel(step)
    outside = len(kernel) // 2 - support_radius(kernel, TOLERANCE / 8)
    return np.ascontiguousarray(kernel[outside : len(kernel) - outside, outside : len(kernel) - outside])


def _fourier_blur(image: Image, kernel: Kernel, then: Step | None) -> Image:
    """Blur by one real transform each way, scipy's pocketfft, which knows no processor; then the resize.

    The kernel equals itself turned by half a circle, so its transform is real. Rows that the resize skips are never
    transformed back.
    """
    height, width = image.shape[:2]
    half = len(kernel) // 2
    shape = _fourier_shape(height, width, len(kernel))
    around = np.zeros((len(kernel), shape[1]), np.float32)  # its centre column at 0, the left half at the end
    around[:, : half + 1] = kernel[:, half:]
    around[:, shape[1] - half :] = kernel[:, :half]
    lines = fft.rfft(around, axis=1)
    wrapped = np.zeros((shape[0], lines.shape[1]), lines.dtype)
    wrapped[: half + 1] = lines[half:]
    wrapped[shape[0] - half :] = lines[:half]
    weight = np.ascontiguousarray(fft.fft(wrapped, axis=0, overwrite_x=True).real)
    out_height, out_width = downsampled_size(height, width, then["factor"]) if then else (height, width)
    index = taps = None
    if then is not None and then["interpolation"] == "bilinear" and out_height < height:
        reads, weights = resize_taps(height, out_height, "bilinear")
        index, taps = reads.T + half, weights.astype(np.float32).T[:, :, None]
    blurred = []
    above, left = (mirror_indices(np.arange(-half, side + half), side) + half for side in (height, width))
    for channel in range(3):  # one by one: memory for three would leave the cache, and be asked of the system each time
        plane = np.zeros(shape, np.float32)
        plane[half : half + height, half : half + width] = image[:, :, channel]
        for border in (slice(0, half), slice(width + half, width + 2 * half)):
            plane[half : half + height, border] = plane[half : half + height, left[border]]
        for border in (slice(0, half), slice(height + half, height + 2 * half)):
            plane[border] = plane[above[border]]
        spectrum = fft.rfft2(plane, overwrite_x=True)
        spectrum *= weight
        rows = fft.ifft(spectrum, axis=0, overwrite_x=True)
        if index is None or taps is None:
            rows = rows[half : half + height]
        else:
            rows = rows[index[0]] * taps[0] + rows[index[1]] * taps[1]
        blurred.append(fft.irfft(rows, shape[1], axis=1)[:, half : half + width])
    merged = np.asarray(cv2.merge(blurred), np.float32).reshape(-1, width, 3)
    return resize(merged, out_height, out_width, then["interpolation"]) if then else merged


def _fourier_shape(height: int, width: int, taps: int) -> tuple[int, int]:
    return fft.next_fast_len(height + taps - 1), fft.next_fast_len(width + taps - 1, real=True)


def _direct(taps: int) -> bool:
    """Whether OpenCV's filter, which is fast up to 11 x 11, takes a kernel of this side."""
    return taps <= 11


# time of one multiplication of OpenCV's filters in those of the sparse product, measured on one AVX-512 machine; they
# choose the way, so they are part of what θ version 2 means and never change
_LINE, _DIRECT, _FOURIER, _TURN, _PASS = 1.45, 0.23, 66.0, 14, 1.2e6


def _passes_worth(image: Image, step: Step, shape: tuple[int, int]) -> int:
    """How many separable passes are cheaper than OpenCV's filter; whole numbers of pixels decide, not a clock."""
    height, width = image.shape[:2]
    if step["kernel"] == "iso":
        line = gaussian_line(step["size"], step["sigma_x"])
        taps = 2 * support_radius(np.outer(line, line), TOLERANCE / 8) + 1
        plain = 3 * height * width * _LINE * taps
    else:
        taps = 2 * support_radius(make_kernel(step), TOLERANCE / 8) + 1
        rows, columns = _fourier_shape(height, width, taps)
        plain = 3 * (height * width * _DIRECT * taps * taps if _direct(taps) else rows * columns * _FOURIER + _PASS)
    reads_y, reads_x = taps + height // shape[0], taps + width // shape[1]
    one = 3 * (shape[0] * width * (reads_y + _TURN) + shape[1] * shape[0] * reads_x) + _PASS
    return int(plain // one)


def _banded(lines: Kernel, count: int, rows: int, interpolation: str | None) -> list[sparse.csr_array]:
    """Each 1-D filter of `lines` (passes, taps), then the resize, as one matrix (rows, count), float32."""
    if interpolation is None:
        first, weight = np.arange(rows), np.ones((rows, 1))
    else:
        index, values = resize_taps(count, rows, interpolation)
        first = index.min(axis=1)
        offset = index - first[:, None]
        weight = np.zeros((rows, int(offset.max()) + 1))
        np.add.at(weight, (np.arange(rows)[:, None], offset), values)
    taps, reads = lines.shape[1], weight.shape[1]
    values = np.zeros((len(lines), rows, taps + reads - 1))
    for read in range(reads):
        values[:, :, read : read + taps] += weight[:, read, None] * lines[:, None, :]
    place = first[:, None] - taps // 2 + np.arange(taps + reads - 1)
    columns = mirror_indices(place, count).astype(np.int32).ravel()
    starts = np.arange(rows + 1, dtype=np.int32) * np.int32(place.shape[1])
    return [
        sparse.csr_array((value.astype(np.float32).ravel(), columns, starts), shape=(rows, count)) for value in values
    ]


def mirror_indices(place: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where a place outside 0..count-1 is read: reflect101 (the edge is not repeated), as often as it takes."""
    if count == 1:
        return np.zeros_like(place)
    period = 2 * (count - 1)
    place = np.abs(place) % period
    return np.minimum(place, period - place)


def fast_kernel(step: Step, height: int, width: int, then: Step | None = None) -> Kernel:
    """The kernel that `fast_blur` blurs a picture of this size with: `kernel_of` but for what its TOLERANCE misses."""
    shape = downsampled_size(height, width, then["factor"]) if then else (height, width)
    most = _passes_worth(np.empty((height, width, 3), np.float32), step, shape)
    passes = separate_kernel(step, most) if most else None
    if passes is not None:
        return np.asarray(passes[0].T @ passes[1], np.float64)
    return _cut_kernel(step)
