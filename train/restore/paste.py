"""Paste a restored crop back into its photo. A soft mask blends the crop into the photo."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from curate.faces.align import compute_scale, invert_affine, transform_points

# The mask rises from 0 at the border of the crop to 1 over this fraction of the crop's side (ours).
FEATHER = 0.12


@cache
def make_soft_mask(size: int) -> np.ndarray:
    """Returns a mask, float32 (size, size), which rises smoothly from 0 at the border to 1 inside.

    The corners of the mask are round.
    """
    position = (np.arange(size) + 0.5) / size
    edge = np.clip(np.minimum(position, 1 - position) / FEATHER, 0, 1)
    rise = edge * edge * (3 - 2 * edge)
    return np.outer(rise, rise).astype(np.float32)


def paste(photo: np.ndarray, restored: np.ndarray, to_crop: np.ndarray) -> np.ndarray:
    """Returns a copy of the photo, uint8 (H, W, 3), with the restored crop, uint8 (S, S, 3), in its place.

    `to_crop` (2, 3) maps pixels of the photo to pixels of the crop. Photo pixels outside the crop do not change. A crop
    that is larger than its place in the photo is reduced by area averaging. A smaller crop is enlarged bicubically.
    """
    # the crop covers the box x0, y0, x1, y1 of the photo
    size = restored.shape[0]
    back = invert_affine(to_crop)
    scale = compute_scale(back)  # photo pixels per crop pixel
    corners = transform_points(np.array([[0, 0], [size, 0], [size, size], [0, size]]) - 0.5, back)
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [photo.shape[1], photo.shape[0]])
    if x0 >= x1 or y0 >= y1:
        return photo.copy()
    # a crop that is larger than its place is first resized, because the warp alone would cause aliasing
    crop, mask, matrix = restored, make_soft_mask(size), back
    if scale < 1:
        small = max(1, round(size * scale))
        crop = cv2.resize(restored, (small, small), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, (small, small), interpolation=cv2.INTER_AREA)
        factor = size / small
        matrix = np.hstack([back[:, :2] * factor, (back[:, 2] + back[:, :2] @ np.full(2, 0.5 * factor - 0.5))[:, None]])
    # The crop and the mask are warped to the photo. The result is photo + mask * (crop - photo), rounded to 8 bits.
    matrix = matrix - np.array([[0, 0, x0], [0, 0, y0]])
    covered_size = (int(x1 - x0), int(y1 - y0))
    warped = cv2.warpAffine(crop, matrix, covered_size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask, matrix, covered_size, flags=cv2.INTER_LINEAR)[:, :, None]
    result = photo.copy()
    under = photo[y0:y1, x0:x1].astype(np.float32)
    result[y0:y1, x0:x1] = np.clip(under + weight * (warped.astype(np.float32) - under) + 0.5, 0, 255).astype(np.uint8)
    return result
