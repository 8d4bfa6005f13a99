"""A restored crop back into its photo, at the photo's own size, under a soft mask."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from curate.faces.align import compute_scale, invert_affine, transform_points

# share of the crop's side over which the mask rises from 0 to 1 at the border (ours)
FEATHER = 0.12


@cache
def soft_mask(size: int) -> np.ndarray:
    """float32 (size, size): 0 at the border, 1 inside, with a smooth rise and rounded corners."""
    place = (np.arange(size) + 0.5) / size
    edge = np.clip(np.minimum(place, 1 - place) / FEATHER, 0, 1)
    rise = edge * edge * (3 - 2 * edge)
    return np.outer(rise, rise).astype(np.float32)


def paste(photo: np.ndarray, restored: np.ndarray, to_crop: np.ndarray) -> np.ndarray:
    """`photo` uint8 (H, W, 3) with `restored` uint8 (S, S, 3) laid where it was cut out.

    `to_crop` (2, 3) takes photo pixels to pixels of the S x S crop. Pixels outside the crop keep their very bytes.
    Where the photo has fewer pixels than the crop, the crop is area-averaged; where it has more, enlarged bicubically.
    """
    size = restored.shape[0]
    back = invert_affine(to_crop)
    scale = compute_scale(back)  # photo pixels per crop pixel
    corners = transform_points(np.array([[0, 0], [size, 0], [size, size], [0, size]]) - 0.5, back)
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [photo.shape[1], photo.shape[0]])
    if x0 >= x1 or y0 >= y1:
        return photo.copy()
    crop, mask, matrix = restored, soft_mask(size), back
    if scale < 1:  # shrink first, so that nothing aliases
        small = max(1, round(size * scale))
        crop = cv2.resize(restored, (small, small), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, (small, small), interpolation=cv2.INTER_AREA)
        factor = size / small
        matrix = np.hstack([back[:, :2] * factor, (back[:, 2] + back[:, :2] @ np.full(2, 0.5 * factor - 0.5))[:, None]])
    matrix = matrix - np.array([[0, 0, x0], [0, 0, y0]])
    place = (int(x1 - x0), int(y1 - y0))
    laid = cv2.warpAffine(crop, matrix, place, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask, matrix, place, flags=cv2.INTER_LINEAR)[:, :, None]
    result = photo.copy()
    under = photo[y0:y1, x0:x1].astype(np.float32)
    result[y0:y1, x0:x1] = np.clip(under + weight * (laid.astype(np.float32) - under) + 0.5, 0, 255).astype(np.uint8)
    return result
