"""Makes blur kernels and decomposes them into a few separable passes.

The kernels have the same numbers as in BasicSR's degradations.py. The motion kernel is ours. Each kernel is float64,
has the sum 1, and is symmetric: a turn by 180 degrees does not change the kernel.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from degrade.theta import GAUSSIAN

Kernel = NDArray[np.float64]

# The separable passes replace a 2-D kernel approximately. The sum of the absolute differences between the weights is at
# most this number (ours). These differences change each pixel by less than 0.25/255.
TOLERANCE = 1e-3
_SMALLEST_SIGMA = 0.01  # pixels (ours); a Gaussian this small does not blur on a pixel grid


def _quadratic(size: int, sigma_x: float, sigma_y: float, angle: float) -> Kernel:
    """Returns the quadratic form of BasicSR's kernels at every pixel.

    For an isotropic kernel, pass sigma_y = sigma_x and angle 0.
    """
    x = np.arange(size, dtype=np.float64) - size // 2
    sx, sy = max(sigma_x, _SMALLEST_SIGMA), max(sigma_y, _SMALLEST_SIGMA)
    c, s = math.cos(angle), math.sin(angle)
    along = (c * x[None, :] + s * x[:, None]) / sx
    across = (c * x[:, None] - s * x[None, :]) / sy
    return np.asarray(along * along + across * across, np.float64)


def _normalise(kernel: Kernel) -> Kernel:
    return np.asarray(kernel / kernel.sum(), np.float64)


def gaussian_line(size: int, sigma: float) -> Kernel:
    """Returns a 1-D Gaussian, float64 (size,), with sum 1.

    The outer product of the 1-D Gaussian with itself is the isotropic kernel.
    """
    x = np.arange(size, dtype=np.float64) - size // 2
    return _normalise(np.exp(-0.5 * (x / max(sigma, _SMALLEST_SIGMA)) ** 2))


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> Kernel:
    """Returns a float64 Gaussian cut to `size` x `size` (odd), with sum 1 (BasicSR: bivariate_Gaussian).

    `angle` is in radians and turns the x axis towards the y axis, which points down. A sigma below 0.01 is replaced by
    0.01, because a Gaussian this small does not blur on a pixel grid.
    """
    return _normalise(np.exp(-0.5 * _quadratic(size, sigma_x, sigma_y, angle)))


def generalized_kernel(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> Kernel:
    """Returns exp(-q**beta / 2) for the Gaussian's quadratic form q (BasicSR: bivariate_generalized_Gaussian)."""
    return _normalise(np.exp(-0.5 * np.power(_quadratic(size, sigma_x, sigma_y, angle), beta)))


def plateau_kernel(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> Kernel:
    """Returns 1 / (1 + q**beta) for the Gaussian's quadratic form q (BasicSR: bivariate_plateau)."""
    return _normalise(1 / (1 + np.power(_quadratic(size, sigma_x, sigma_y, angle), beta)))


def sinc_kernel(size: int, cutoff: float) -> Kernel:
    """Returns a low-pass filter that keeps frequencies below `cutoff` radians per pixel, which is at most pi.

    The low-pass filter is circular and follows BasicSR's circular_lowpass_kernel.
    """
    x = np.arange(size, dtype=np.float64) - size // 2
    radius = np.hypot(x[None, :], x[:, None])
    radius[size // 2, size // 2] = 1  # avoids 0 / 0; the value at the centre is set two lines below
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return _normalise(np.asarray(kernel, np.float64))


def motion_kernel(size: int, length: float, angle: float) -> Kernel:
    """Returns the kernel of a straight line of `length` pixels at `angle` radians, cut to `size` (ours).

    The line is one pixel wide and has soft edges of one pixel. With length 1 and angle 0, the kernel does not blur.
    """
    x = np.arange(size, dtype=np.float64) - size // 2
    c, s = math.cos(angle), math.sin(angle)
    along = np.abs(c * x[None, :] + s * x[:, None])
    across = np.abs(c * x[:, None] - s * x[None, :])
    kernel = np.clip(length / 2 + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    return _normalise(np.asarray(kernel, np.float64))


def make_kernel(step: dict[str, Any]) -> Kernel:
    """Returns the kernel of a valid blur step, float64 (size, size), with sum 1."""
    name, size = step["kernel"], step["size"]
    if name == "sinc":
        return sinc_kernel(size, step["cutoff"])
    if name == "motion":
        return motion_kernel(size, step["length"], step["angle"])
    isotropic = name.endswith("iso") and not name.endswith("aniso")
    sigma_x = step["sigma_x"]
    sigma_y, angle = (sigma_x, 0.0) if isotropic else (step["sigma_y"], step["angle"])
    if name in GAUSSIAN:
        return gaussian_kernel(size, sigma_x, sigma_y, angle)
    function = generalized_kernel if name.startswith("generalized") else plateau_kernel
    return function(size, sigma_x, sigma_y, angle, step["beta"])


# --- separable passes ---


def support_radius(kernel: Kernel, tolerance: float) -> int:
    """Returns the radius of the smallest centred square outside of which the absolute weight is at most `tolerance`."""
    weights = np.bincount(_find_rings(kernel.shape[0]), np.abs(kernel).ravel())
    outside = np.cumsum(weights[::-1])[::-1]  # outside[r] is the absolute weight from ring r outwards
    return int(np.count_nonzero(outside > tolerance)) - 1


@lru_cache(maxsize=32)
def _find_rings(size: int) -> NDArray[np.int64]:
    """Returns max(|x|, |y|) of each element (x, y) of a kernel, int64 (size * size,). The centre is (0, 0)."""
    distance = np.abs(np.arange(size) - size // 2)
    return np.maximum(distance[:, None], distance[None, :]).ravel()


def cut_kernel(step: dict[str, Any]) -> Kernel:
    """Returns the kernel of a valid blur step, without the outer rows and columns, which have almost no weight.

    The result is float64 (taps, taps) with an odd number of taps. For an `iso` kernel, the result is its 1-D Gaussian
    (taps,). The outer product of the 1-D Gaussian with itself is the kernel.
    """
    middle = step["size"] // 2
    if step["kernel"] == "iso":
        line = gaussian_line(step["size"], step["sigma_x"])
        half = support_radius(np.outer(line, line), TOLERANCE / 8)
        return line[middle - half : middle + half + 1]
    kernel = make_kernel(step)
    half = support_radius(kernel, TOLERANCE / 8)
    return np.ascontiguousarray(kernel[middle - half : middle + half + 1, middle - half : middle + half + 1])


def separate_kernel(kernel: Kernel, max_products: int) -> tuple[Kernel, Kernel] | None:
    """Returns a cut kernel as a sum of at most `max_products` outer products, or None if more products are needed.

    `kernel` is the result of `cut_kernel`. The result is (columns, rows), each float64 (rank, taps). The kernel is the
    sum of the outer products of columns[r] and rows[r], up to TOLERANCE in absolute weight. The columns and the rows of
    a 1-D kernel are the same array. A Gaussian of any angle needs three to ten products. A cross approximation finds
    these outer products with elementwise arithmetic only. On average, an SVD would need 0.5 fewer products per kernel.
    But LAPACK computes the SVD, and the results of LAPACK differ in the last bits between processors.
    """
    if kernel.ndim == 1:
        lines = kernel[None]
        return (lines, lines) if max_products >= 1 else None
    middle = kernel.shape[0] // 2
    # A turn by 180 degrees does not change the kernel. Therefore, the kernel is a sum of products of two even vectors
    # and of products of two odd vectors. One quarter of the kernel is enough to find all of these products.
    right, left = kernel[middle:, middle:], kernel[middle:, middle::-1]
    columns: list[Kernel] = []
    rows: list[Kernel] = []
    for quarter, sign in (((right + left) / 2, 1.0), ((right - left) / 2, -1.0)):
        crosses = _find_crosses(quarter, TOLERANCE * 3 / 8, max_products - len(columns))  # (column, row) pairs
        if crosses is None:
            return None
        columns += [_unfold(column, sign) for column, _ in crosses]
        rows += [_unfold(row, sign) for _, row in crosses]
    return np.stack(columns), np.stack(rows)


def _find_crosses(quarter: Kernel, tolerance: float, max_products: int) -> list[tuple[Kernel, Kernel]] | None:
    """Returns (column, row) pairs whose products add up to a quarter of a kernel, up to `tolerance`.

    The rest is the quarter minus the products of the pairs. Each pair is the column and the row that cross at the
    largest element of the rest. The search ends when four times the sum of the rest's absolute values is at most
    `tolerance`. Returns None if more than `max_products` pairs are needed.
    """
    rest = quarter.copy()
    crosses: list[tuple[Kernel, Kernel]] = []
    size = np.abs(rest)
    while 4 * size.sum() > tolerance:
        if len(crosses) == max_products:
            return None
        # Because of symmetry, many elements of a kernel are equal. The rounding makes argmax choose the same element on
        # every machine, even if the last bit of an exponential function differs.
        at = int(np.rint(size * 2.0**40).argmax())
        i, j = divmod(at, rest.shape[1])
        column, row = rest[:, j].copy(), rest[i] / rest[i, j]
        crosses.append((column, row))
        rest -= column[:, None] * row[None, :]
        size = np.abs(rest)
    return crosses


def _unfold(half: Kernel, sign: float) -> Kernel:
    return np.concatenate([sign * half[:0:-1], half])
