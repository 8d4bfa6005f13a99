"""Blurs an image with a plain or a fast function. The fast function joins a blur and the downsample after the blur.

The plain blur function is OpenCV's filter. The fast function computes nearly the same sum in another order. The fast
function divides the kernel into a few separable passes (`kernels.separate_kernel`). The matrix of each pass is
multiplied with the matrix of the resize that follows. One sparse product on each axis then gives the downsampled image.
Pixels that the resize would skip are never computed. The formula of the small image is:

    small = sum over r of (D_y C_r) X (D_x R_r)^T        D: resize, C_r and R_r: 1-D filters, X: the image

scipy's CSR product computes the sums. The CSR product is a simple loop that adds in the order of the taps. The loop of
the CSR product has the same machine code on all x86-64 processors. BLAS is not used, because its order of addition
depends on the processor.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

from degrade.operations.kernels import Kernel, cut_kernel, gaussian_line, make_kernel, separate_kernel
from degrade.operations.pixels import Image
from degrade.operations.resize import downsampled_size, resize, resize_taps
from degrade.theta import Step


def blur(image: Image, kernel: str, size: int, **shape: float) -> Image:
    """Blurs with OpenCV's filter, without clipping.

    `shape` contains the parameters of the kernel: sigma_x, sigma_y, angle, beta, cutoff or length. The border is
    mirrored without repeating the edge, which is the default of OpenCV and of BasicSR. If the image is smaller than the
    kernel, the border is mirrored several times. If a side has one pixel, this pixel is repeated. An `iso` kernel uses
    only sigma_x and runs as two 1-D passes. The outer product of the two passes is the kernel.
    """
    if kernel == "iso":
        line = gaussian_line(size, shape["sigma_x"])
        return np.asarray(cv2.sepFilter2D(image, -1, line, line), np.float32)
    step: dict[str, Any] = {"kernel": kernel, "size": size, **shape}
    return np.asarray(cv2.filter2D(image, -1, make_kernel(step)), np.float32)


def fast_blur(image: Image, step: Step, next_step: Step | None = None) -> Image:
    """Runs the blur step `step` without clipping. If `next_step` is not None, then runs this downsample step.

    The result differs from the result of `blur` and `downsample` by at most 0.25/255. The largest difference that we
    measured between `fast_blur` and `blur` is 0.09/255. If a blur with OpenCV's filter or with a Fourier transform
    costs less than the separable passes, this blur is used.
    """
    height, width = image.shape[:2]
    out_height, out_width = downsampled_size(height, width, next_step["factor"]) if next_step else (height, width)
    shape = (out_height, out_width)
    kernel = cut_kernel(step)  # 1-D for an `iso` kernel
    max_passes = _count_affordable_passes((height, width), kernel, shape)
    passes = separate_kernel(kernel, max_passes) if max_passes else None
    if passes is None:
        if kernel.ndim == 2 and not _is_direct(len(kernel)):
            return _fourier_blur(image, kernel, next_step)
        # OpenCV is fast for kernels of up to 11 x 11 pixels.
        blurred = cv2.filter2D(image, -1, kernel) if kernel.ndim == 2 else cv2.sepFilter2D(image, -1, kernel, kernel)
        image = np.asarray(blurred, np.float32)
        return resize(image, out_height, out_width, next_step["interpolation"]) if next_step else image
    # Each pass has one banded matrix for each axis. The banded matrix of a pass joins the 1-D filter and the resize.
    # The matrices of an axis have the same indices and differ only in their weights. If the image and the result are
    # square, both axes have the same indices.
    interpolation = next_step["interpolation"] if next_step else None
    columns, rows = passes
    if (height, shape[0]) != (width, shape[1]):
        down, down_weights = _make_bands(columns, height, shape[0], interpolation)
        across, across_weights = _make_bands(rows, width, shape[1], interpolation)
    else:
        lines = columns if columns is rows else np.concatenate([columns, rows])
        down, weights = across, _ = _make_bands(lines, height, shape[0], interpolation)
        down_weights, across_weights = weights[: len(columns)], weights[-len(rows) :]
    # The first product runs along the columns, from (height, width * 3) to (out_height, width * 3). The second product
    # runs along the rows, on the transposed image.
    flat = np.ascontiguousarray(image).reshape(height, width * 3)
    total: NDArray[np.float32] | None = None
    for down_weight, across_weight in zip(down_weights, across_weights, strict=True):
        down.data = down_weight
        transposed = cv2.transpose((down @ flat).reshape(shape[0], width, 3))
        across.data = across_weight
        part = across @ np.asarray(transposed, np.float32).reshape(width, shape[0] * 3)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None  # `passes` has at least one pass
    return np.asarray(cv2.transpose(total.reshape(shape[1], shape[0], 3)), np.float32).reshape(*shape, 3)


def _fourier_blur(image: Image, kernel: Kernel, next_step: Step | None) -> Image:
    """Blurs by a real Fourier transform and its inverse, and then runs the resize of `next_step` if there is one.

    The transform is scipy's pocketfft, whose result does not depend on the processor. A turn by 180 degrees does not
    change the kernel, so the transform of the kernel is real. Rows that the resize skips are never transformed back.
    """
    height, width = image.shape[:2]
    half = len(kernel) // 2
    shape = _fourier_shape(height, width, len(kernel))
    # `weight` is the real transform of the kernel. Each column of `weight` occurs twice, once for the real part and
    # once for the imaginary part of the image's spectrum: numpy multiplies two real numbers faster than a complex
    # number and a real number. The kernel is padded to `shape`, and its centre is moved to (0, 0). In `around`, the
    # centre column of the kernel is at 0, and the left half is at the end.
    around = np.zeros((len(kernel), shape[1]), np.float32)
    around[:, : half + 1] = kernel[:, half:]
    around[:, shape[1] - half :] = kernel[:, :half]
    lines = fft.rfft(around, axis=1)
    wrapped = np.zeros((shape[0], lines.shape[1]), lines.dtype)
    wrapped[: half + 1] = lines[half:]
    wrapped[shape[0] - half :] = lines[:half]
    weight = np.repeat(fft.fft(wrapped, axis=0, overwrite_x=True).real, 2, axis=1)
    out_height, out_width = downsampled_size(height, width, next_step["factor"]) if next_step else (height, width)
    # If a bilinear resize shrinks the height, each output row has two input rows in `index` and two weights in `taps`.
    index = taps = None
    if next_step is not None and next_step["interpolation"] == "bilinear" and out_height < height:
        reads, weights = resize_taps(height, out_height, "bilinear")
        index, taps = reads.T + half, weights.astype(np.float32).T[:, :, None]
    blurred = []
    above, left = (mirror_indices(np.arange(-half, side + half), side) + half for side in (height, width))
    for channel in range(3):  # The channels run one by one, because three planes would not fit into the cache.
        # `plane` is the channel with a mirrored border of half a kernel on each side.
        plane = np.zeros(shape, np.float32)
        plane[half : half + height, half : half + width] = image[:, :, channel]
        for border in (slice(0, half), slice(width + half, width + 2 * half)):
            plane[half : half + height, border] = plane[half : half + height, left[border]]
        for border in (slice(0, half), slice(height + half, height + 2 * half)):
            plane[border] = plane[above[border]]
        # The spectra are multiplied, and the product is transformed back. The last transform, along the rows, runs only
        # on the rows that the resize reads.
        spectrum = fft.rfft2(plane, overwrite_x=True)
        spectrum.view(np.float32)[:] *= weight
        rows = fft.ifft(spectrum, axis=0, overwrite_x=True)
        if index is None or taps is None:
            rows = rows[half : half + height]
        else:
            first, second = (rows[index[read]].view(np.float32) for read in range(2))
            first *= taps[0]
            second *= taps[1]
            first += second
            rows = first.view(np.complex64)
        blurred.append(fft.irfft(rows, shape[1], axis=1)[:, half : half + width])
    merged = np.asarray(cv2.merge(blurred), np.float32).reshape(-1, width, 3)
    return resize(merged, out_height, out_width, next_step["interpolation"]) if next_step else merged


def _fourier_shape(height: int, width: int, taps: int) -> tuple[int, int]:
    return fft.next_fast_len(height + taps - 1), fft.next_fast_len(width + taps - 1, real=True)


def _is_direct(taps: int) -> bool:
    """Returns whether OpenCV filters directly, which is fast for kernels of up to 11 x 11 pixels."""
    return taps <= 11


# The constants are the costs of OpenCV's filters, of the Fourier transform and of a pass. The unit of the costs is one
# multiplication of the sparse product. The costs were measured on one machine with AVX-512. The costs select the
# method, and the method determines the bytes. The bytes of a θ of version 2 depend on the costs, so the costs never
# change.
_LINE, _DIRECT, _FOURIER, _TURN, _PASS = 1.45, 0.23, 66.0, 14, 1.2e6


def _count_affordable_passes(size: tuple[int, int], kernel: Kernel, shape: tuple[int, int]) -> int:
    """Returns the largest number of separable passes that cost at most as much as the other method.

    `size` and `shape` are the sizes (height, width) of the image and of the result. `kernel` is the result of
    `cut_kernel`. The other method is OpenCV's filter for `iso` kernels and for kernels of up to 11 x 11 pixels, and the
    Fourier transform for larger kernels. The costs are computed from counts of multiplications and not measured, so
    every machine chooses the same method.
    """
    (height, width), taps = size, len(kernel)
    if kernel.ndim == 1:
        other_cost = 3 * height * width * _LINE * taps
    else:
        rows, columns = _fourier_shape(height, width, taps)
        direct, fourier = height * width * _DIRECT * taps * taps, rows * columns * _FOURIER + _PASS
        other_cost = 3 * (direct if _is_direct(taps) else fourier)
    reads_y, reads_x = taps + height // shape[0], taps + width // shape[1]
    pass_cost = 3 * (shape[0] * width * (reads_y + _TURN) + shape[1] * shape[0] * reads_x) + _PASS
    return int(other_cost // pass_cost)


def _make_bands(
    lines: Kernel, count: int, rows: int, interpolation: str | None
) -> tuple[sparse.csr_array, NDArray[np.float32]]:
    """Makes a sparse matrix (rows, count) for each 1-D filter in `lines` (passes, taps). Each matrix joins a filter and
    the resize after the filter. The matrices differ only in their `data`. Returns the first matrix, and the `data` of
    all matrices as float32 (passes, values).
    """
    # For each output row of the resize, `first` is the first input row that the resize reads. `weight` contains the
    # weights of the row `first` and of the rows after `first`.
    if interpolation is None:
        first, weight = np.arange(rows), np.ones((rows, 1))
    else:
        index, values = resize_taps(count, rows, interpolation)
        first = index.min(axis=1)
        offset = index - first[:, None]
        weight = np.zeros((rows, int(offset.max()) + 1))
        np.add.at(weight, (np.arange(rows)[:, None], offset), values)
    # The joint weights are the convolution of the filter and the resize, (passes, rows, taps + reads - 1).
    taps, reads = lines.shape[1], weight.shape[1]
    values = np.zeros((len(lines), rows, taps + reads - 1))
    for read in range(reads):
        values[:, :, read : read + taps] += weight[:, read, None] * lines[:, None, :]
    # Positions outside the image are mirrored into the image.
    place = first[:, None] - taps // 2 + np.arange(taps + reads - 1)
    columns = mirror_indices(place, count).astype(np.int32).ravel()
    starts = np.arange(rows + 1, dtype=np.int32) * np.int32(place.shape[1])
    weights = values.astype(np.float32).reshape(len(lines), -1)
    return sparse.csr_array((weights[0], columns, starts), shape=(rows, count)), weights


def mirror_indices(place: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Mirrors each position into the range 0..count-1, several times if needed.

    The pixel at the edge is not repeated (reflect101).
    """
    if count == 1:
        return np.zeros_like(place)
    period = 2 * (count - 1)
    place = np.abs(place) % period
    return np.minimum(place, period - place)


def make_fast_kernel(step: Step, height: int, width: int, next_step: Step | None = None) -> Kernel:
    """Returns the kernel that `fast_blur` uses for an image of this size.

    The kernel differs from the kernel of `make_kernel` by at most TOLERANCE in absolute weight.
    """
    shape = downsampled_size(height, width, next_step["factor"]) if next_step else (height, width)
    kernel = cut_kernel(step)
    max_passes = _count_affordable_passes((height, width), kernel, shape)
    passes = separate_kernel(kernel, max_passes) if max_passes else None
    if passes is not None:
        return np.asarray(passes[0].T @ passes[1], np.float64)
    return kernel if kernel.ndim == 2 else np.outer(kernel, kernel)
