"""Sharpens a face of a photo with an unsharp mask. A restorer must give better results than this simple method."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from train.restore.pasting.paste import make_patch, round_to_levels

# The standard deviation (ours) of the blur in the unsharp mask, in pixels of the crop. The mask amplifies detail with
# periods of 4 to 8 pixels, which `measure_sharpness_ratio` measures.
SIGMA = 2.0
MOST_AMOUNT = 16.0  # The largest amount of sharpening (ours). The amount is the factor of the mask.


def sharpen_face(photo: np.ndarray, crop: np.ndarray, landmarks5: np.ndarray, amount: float) -> np.ndarray:
    """Returns a copy of the photo, uint8 (H, W, 3), in which one face is sharpened.

    `crop` is the face at the restorer's size, uint8 (S, S, 3). `landmarks5` (5, 2) are in pixels of the photo. The
    sharpened face is pasted as `restore` pastes a restored face.
    """
    values = crop.astype(np.float32)
    sharp = np.clip(values + np.float32(amount) * (values - cv2.GaussianBlur(values, (0, 0), SIGMA)), 0, 255)
    patch = make_patch(photo, crop, sharp, landmarks5)
    if patch is None:
        return photo
    height, width = patch.weight.shape
    result = photo.astype(np.float32)
    result[patch.y : patch.y + height, patch.x : patch.x + width] += patch.weight[..., None] * patch.change
    return round_to_levels(result)


def find_amount(compute_ratio: Callable[[float], float], ratio: float) -> float:
    """Finds by bisection the amount from 0 to MOST_AMOUNT for which `compute_ratio` returns `ratio`.

    `compute_ratio` returns the sharpness ratio of an amount. A larger amount must give a larger ratio.
    """
    low, high = 0.0, MOST_AMOUNT
    for _ in range(12):  # after 12 steps, the interval is .004 wide
        middle = (low + high) / 2
        low, high = (middle, high) if compute_ratio(middle) < ratio else (low, middle)
    return round(low, 2)
