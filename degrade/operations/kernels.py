"""Blur kernels, and the few separable passes that a kernel is the sum of.

All of BasicSR's kernels are here with its numbers (degradations.py), and a motion kernel of ours. Each is float64,
sums to 1, and looks the same when turned by half a circle.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from degrade.theta import GAUSSIAN

Kernel = NDArray[np.float64]

TOLERANCE = 1e-3  # ours: absolute weight of a 2-D kernel that the passes may miss: under 0.25/255 on any pixel
_SMALLEST_SIGMA = 0.01  # ours: on a pixel grid this is no blur


def _quadratic(size: int, sigma_x: float, sigma_y: float, angle: float) -> Kernel:
    """The quadratic form of BasicSR's kernels at every pixel; its isotropic ones are sigma_y = sigma_x, angle 0."""
    x = np.arange(size, dtype=np.float64) - size // 2
    sx, sy = max(sigma_x, _SMALLEST_SIGMA), max(sigma_y, _SMALLEST_SIGMA)
    c, s = math.cos(angle), math.sin(angle)
    along = (c * x[None, :] + s * x[:, None]) / sx
    across = (c * x[:, None] - s * x[None, :]) / sy
    return np.asarray(along * along + across * across, np.float64)


def _normalised(kernel: Kernel) -> Kernel:
    return np.asarray(kernel / kernel.sum(), np.float64)


def gaussian_line(size: int, sigma: float) -> Kernel:
    """A 1-D Gaussian (size,), float64, sum 1; its outer product with itself is the isotropic kernel."""
    x = np.arange(size, dtype=np.float64) - size // 2
    return _normalised(np.exp(-0.5 * (x / max(sigma, _SMALLEST_SIGMA)) ** 2))


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> Kernel:
    """A Gaussian cut to `size` x `size` (odd) and normalised to sum 1, float64: BasicSR bivariate_Gaussian.

    `angle` in radians turns the x axis towards y, which points down. A sigma below 0.01 counts as 0.01: on a pixel
    grid both are no blur at all.
    """
    return _normalised(np.exp(-0.5 * _quadratic(size, sigma_x, sigma_y, angle)))


def generalized_kernel(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> Kernel:
    """exp(-q**beta / 2), q the Gaussian's quadratic form: BasicSR bivariate_generalized_Gaussian."""
    return _normalised(np.exp(-0.5 * np.power(_quadratic(size, sigma_x, sigma_y, angle), beta)))


def plateau_kernel(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> Kernel:
    """1 / (1 + q**beta): BasicSR bivariate_plateau."""
    return _normalised(1 / (1 + np.power(_quadratic(size, sigma_x, sigma_y, angle), beta)))


def sinc_kernel(size: int, cutoff: float) -> Kernel:
    """The circular low-pass of `cutoff` radians a pixel, pi at most: BasicSR circular_lowpass_kernel."""
    x = np.arange(size, dtype=np.float64) - size // 2
    radius = np.hypot(x[None, :], x[:, None])
    radius[size // 2, size // 2] = 1  # any number: its value is set below
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return _normalised(np.asarray(kernel, np.float64))


def motion_kernel(size: int, length: float, angle: float) -> Kernel:
    """A straight line of `length` pixels at `angle`, one pixel wide with edges of one pixel, cut to `size`.

    Ours. Length 1 at angle 0 is no blur at all, and 0 hardly any at another angle.
    """
    x = np.arange(size, dtype=np.float64) - size // 2
    c, s = math.cos(angle), math.sin(angle)
    along = np.abs(c * x[None, :] + s * x[:, None])
    across = np.abs(c * x[:, None] - s * x[None, :])
    kernel = np.clip(length / 2 + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    return _normalised(np.asarray(kernel, np.float64))


def make_kernel(step: dict[str, Any]) -> Kernel:
    """The (size, size) float64 kernel of a checked blur step; it sums to 1."""
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
    shaped = generalized_kernel if name.startswith("generalized") else plateau_kernel
    return shaped(size, sigma_x, sigma_y, angle, step["beta"])


# --- the same kernel, cheaper ---


def support_radius(kernel: Kernel, missed: float) -> int:
    """Half the side of the smallest centred square outside which at most `missed` of the absolute weight lies."""
    half = kernel.shape[0] // 2
    distance = np.abs(np.arange(kernel.shape[0]) - half)
    ring = np.maximum(distance[:, None], distance[None, :])
    weights = np.bincount(ring.ravel(), np.abs(kernel).ravel())
    outside = np.cumsum(weights[::-1])[::-1]  # outside[r]: weight at distance r or more
    return int(np.count_nonzero(outside > missed)) - 1


def separate_kernel(step: dict[str, Any], most: int) -> tuple[Kernel, Kernel] | None:
    """The kernel as a sum of at most `most` products, or None where that many do not do.

    Answers (columns, rows), each (rank, taps) with an odd number of taps: kernel = sum of columns[r] x rows[r], up to
    TOLERANCE in absolute weight. A Gaussian of any angle needs three to ten. The cross approximation is plain
    elementwise arithmetic: an SVD would need fewer by half a product, and LAPACK's bits depend on the processor.
    """
    if step["kernel"] == "iso":
        line = gaussian_line(step["size"], step["sigma_x"])
        half = support_radius(np.outer(line, line), TOLERANCE / 8)
        line = line[step["size"] // 2 - half : step["size"] // 2 + half + 1]
        return (line[None], line[None]) if most >= 1 else None
    kernel = make_kernel(step)
    half = support_radius(kernel, TOLERANCE / 8)
    middle = kernel.shape[0] // 2
    # half a turn leaves the kernel as it is: it is even x even + odd x odd, and a quarter of it says everything
    right, left = kernel[middle:, middle:][: half + 1, : half + 1], kernel[middle:, middle::-1][: half + 1, : half + 1]
    columns: list[Kernel] = []
    rows: list[Kernel] = []
    for quarter, sign in (((right + left) / 2, 1.0), ((right - left) / 2, -1.0)):
        crosses = _crosses(quarter, TOLERANCE * 3 / 8, most - len(columns))
        if crosses is None:
            return None
        columns += [_unfold(column, sign) for column, _ in crosses]
        rows += [_unfold(row, sign) for _, row in crosses]
    return np.stack(columns), np.stack(rows)


def _crosses(quarter: Kernel, missed: float, most: int) -> list[tuple[Kernel, Kernel]] | None:
    """Subtract the cross through the largest element until four quarters weigh at most `missed`."""
    rest = quarter.copy()
    found: list[tuple[Kernel, Kernel]] = []
    size = np.abs(rest)
    while 4 * size.sum() > missed:
        if len(found) == most:
            return None
        # rounded, so that ties (there are many, by symmetry) fall the same way whatever the last bit of an exp is
        at = int(np.rint(size * 2.0**40).argmax())
        i, j = divmod(at, rest.shape[1])
        column, row = rest[:, j].copy(), rest[i] / rest[i, j]
        found.append((column, row))
        rest -= column[:, None] * row[None, :]
        size = np.abs(rest)
    return found


def _unfold(half: Kernel, sign: float) -> Kernel:
    return np.concatenate([sign * half[:0:-1], half])
