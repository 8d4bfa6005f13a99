"""Measures a whole picture: how it was stored, whether it is gray, and how much of it is a plain border."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from manifests.pictures.images import Picture

_SIDE = 128  # Width and height (ours), in pixels, of the reduced picture that is measured.
# A row of pixels belongs to a plain border if at least the share _PLAIN_SHARE (ours) of its pixels have nearly the
# median colour of the row. Nearly means that a pixel differs from the median by at most _PLAIN (ours) of the 256 levels
# in each channel. Text on a bar covers less than 30% of a row.
_PLAIN_SHARE, _PLAIN = 0.7, 6
_GRAY = 2.0  # a picture is gray if the mean difference of its channels is at most 2 (ours) of the 256 levels


def measure_picture(picture: Picture) -> dict[str, Any]:
    """Returns the columns of the table `photos` that help to distinguish an original from its copies."""
    facts = {} if picture.facts is None else asdict(picture.facts)
    return {**facts, "gray": is_gray(picture.rgb), "border": measure_border(picture.rgb)}


def is_gray(rgb: np.ndarray) -> bool:
    """Returns whether a picture, RGB uint8 (H, W, 3), has no colours."""
    red, green, blue = cv2.split(_sample(rgb))
    spread = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    return bool(spread.mean() <= _GRAY)


def measure_border(rgb: np.ndarray) -> float:
    """Returns the share of a picture, RGB uint8 (H, W, 3), that is a plain border, from 0 to 1.

    The border consists of rows and columns of nearly one colour. From each side, the border ends at the first row or
    column with several colours. Frames, plain backgrounds, and the bars of screenshots and films count as borders.
    """
    small = _sample(rgb)
    top, bottom = _find_inside(small)
    left, right = _find_inside(small[top:bottom].transpose(1, 0, 2)) if bottom > top else (0, 0)
    return 1.0 - (bottom - top) * (right - left) / _SIDE**2


def _sample(rgb: np.ndarray) -> np.ndarray:
    return cv2.resize(rgb, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)


def _find_inside(rows: np.ndarray) -> tuple[int, int]:
    """Returns the rows inside a plain border: the number of the first row, and 1 + the number of the last row."""
    planes = np.ascontiguousarray(rows.transpose(2, 0, 1)).astype(np.int16)  # (3, n, w); contiguous rows sort faster
    ordered, middle = np.sort(planes, axis=2), planes.shape[2] // 2
    # A median can lie between two levels. Twice a median is always an integer.
    medians = ordered[:, :, middle] + ordered[:, :, middle - 1 + planes.shape[2] % 2]
    near = (np.abs(2 * planes - medians[:, :, None]) <= 2 * _PLAIN).all(0)
    inside = np.flatnonzero(near.mean(1) < _PLAIN_SHARE)
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
