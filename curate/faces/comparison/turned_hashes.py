"""Computes the perceptual hashes of turned and mirrored pictures from the hashes of the pictures.

A picture has eight variants: four turns, each plain or mirrored. If a picture is mirrored along an axis, the
frequencies with an odd number along the mirrored axis change their signs. If a picture is transposed, its frequencies
are transposed. A hash has a bit for each frequency. The hash of a variant therefore has the bits of the picture's hash
in a different order, and some bits are inverted. The result is not exact, because the median frequency of a picture is
not exactly 0. In 96 photos, at most 8 of the 64 bits differ from the hash of the mirrored pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

# The number of a variant has three bits. Bit 1 means mirrored along x, bit 2 means mirrored along y, and bit 4 means
# transposed before the mirroring. Variant 0 is the picture without a change.
PLAIN, MIRRORED = 0, 1
VARIANTS = range(8)


def unpack_hashes(hashes: Sequence[str]) -> np.ndarray:
    """Returns n hexadecimal hashes of equal length as bytes, uint8 (n, bytes)."""
    size = len(hashes[0]) // 2 if hashes else 0
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), size)


def turn_hashes(hashes: np.ndarray, variant: int) -> np.ndarray:
    """Returns the hashes of the variant number `variant` of n pictures, uint8 (n, bytes).

    `hashes` are the hashes of the pictures. A hash has side * side bits, row by row, as
    `curate.faces.measure.hash_picture` makes it.
    """
    if variant == PLAIN:
        return hashes
    order, inverted = _find_places(variant, int(np.sqrt(hashes.shape[1] * 8)))
    bits = np.unpackbits(hashes, axis=1)
    return np.packbits(bits[:, order] ^ inverted, axis=1) if variant & 4 else hashes ^ np.packbits(inverted)


def count_different_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns for each pair of hashes the number of bits that differ, int64 (m,).

    Both arguments are uint8 (m, bytes). The number of bytes is a multiple of 8.
    """
    a, b = (np.ascontiguousarray(part).view(np.uint64) for part in (one, other))
    return np.bitwise_count(a ^ b).sum(1, dtype=np.int64)


def turn_boxes(boxes: np.ndarray, variant: int) -> np.ndarray:
    """Returns the places of boxes in a variant of their picture. `variant` is a number in VARIANTS.

    `boxes` are x0, y0, x1, y1, (n, 4), as shares of width and height.
    """
    if variant & 4:
        boxes = boxes[:, [1, 0, 3, 2]]
    x0, y0, x1, y1 = boxes.T
    if variant & 1:
        x0, x1 = 1 - x1, 1 - x0
    if variant & 2:
        y0, y1 = 1 - y1, 1 - y0
    return np.stack([x0, y0, x1, y1], axis=1)


@cache
def _find_places(variant: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each bit of a variant its position in the picture's own hash, and whether the bit is inverted.

    The first array is int (side * side,), and the second array is uint8 (side * side,).
    """
    place = np.arange(side * side).reshape(side, side)
    y, x = np.divmod(place, side)
    inverted = (x % 2 * (variant & 1)) ^ (y % 2 * (variant >> 1 & 1))
    return (place.T if variant & 4 else place).ravel(), inverted.ravel().astype(np.uint8)


def measure_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of each pair of boxes, (m,), from boxes (m, 4)."""
    inner = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.clip(inner, 0, None).prod(1)
    areas = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(1) + np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-12), np.float64)
