"""Computes how the pixels of a photo change when a restored face is pasted into the photo.

The difference between the network's output and input is added to the photo. The photo therefore keeps its own detail,
also detail that is too fine for the size of the network. If the network changes nothing, no pixel of the photo changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from curate.faces.align import (
    FFHQ_512,
    FFHQ_SIZE,
    compute_scale,
    find_valid_pixels,
    fit_similarity,
    invert_affine,
    scale_template,
    transform_points,
)

# The centre (x, y) and the half axes of the mask's ellipse in the FFHQ template, as fractions of the crop's side
# (ours). On the mean face, the ellipse reaches from the hairline to the chin and from ear to ear.
_CENTRE, _HALF_AXES = np.array([0.5, 0.595]), np.array([0.27, 0.345])
# Inside the ellipse, the mask rises from 0 at the edge to 1 over this fraction (ours) of the half axes.
FEATHER = 0.3
# Next to pixels that do not come from the photo, the mask rises from 0 to 1 over this fraction (ours) of the crop's
# side.
_BORDER_FEATHER = 0.04
# The ellipse is stretched along each axis by a factor from _LEAST_STRETCH to 1 / _LEAST_STRETCH (ours). Without this
# limit, the ellipse of a face in profile would be almost empty, because its landmarks are almost on one line.
_LEAST_STRETCH = 0.65
# The standard deviation of the blur that gives the low frequencies, as a fraction (ours) of the crop's side.
_LOW_FREQUENCIES = 0.1
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # the weights of R, G, B in luma (ITU-R BT.601, as in JPEG)


@dataclass(frozen=True)
class Patch:
    """Holds the change of one face in photo pixels. A pixel changes by weight * change."""

    x: int  # The first column of the patch in the photo.
    y: int  # The first row of the patch in the photo.
    change: np.ndarray  # The change (h, w, 3), float32, sRGB in levels of 0 to 255.
    weight: np.ndarray  # The weight (h, w), float32 from 0 to 1, and 0 outside the face.


def make_patch(photo: np.ndarray, crop: np.ndarray, restored: np.ndarray, landmarks5: np.ndarray) -> Patch | None:
    """Returns the change that pastes a restored face into a photo, or None if no pixel of the photo changes.

    `photo` is uint8 (H, W, 3). `crop` is the network's input, uint8 (S, S, 3), aligned by the FFHQ template. `restored`
    is the network's output, float32 (S, S, 3) in 0..255. `landmarks5` (5, 2) are in pixels of the photo. If the photo
    is gray, the change is gray. Raises ValueError if `restored` is not finite.
    """
    if not np.isfinite(restored).all():
        raise ValueError("the restored face contains NaN or infinity")
    size, (height, width) = crop.shape[0], photo.shape[:2]
    to_crop = fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size))
    mask = make_face_mask(transform_points(landmarks5, to_crop), size)
    mask = np.minimum(mask, _feather_inside(find_valid_pixels(landmarks5, width, height, size)))
    change = match_edge(restored.astype(np.float32) - crop, mask)
    # Find the box of the photo that contains the whole crop.
    back = invert_affine(to_crop)
    corners = transform_points(np.array([[0, 0], [size, 0], [size, size], [0, size]]) - 0.5, back)
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [width, height])
    if x0 >= x1 or y0 >= y1 or not mask.any():
        return None
    place = back - np.array([[0, 0, x0], [0, 0, y0]])
    change, weight = _resize_to_photo(change, mask, place, (int(x1 - x0), int(y1 - y0)))
    # Keep only the rows and columns of the face, because this saves memory in a photo of many faces.
    rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
    if len(rows) == 0:
        return None
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    change, weight = change[inside].copy(), weight[inside].copy()
    if is_gray(photo):
        change = np.repeat((change @ LUMA)[..., None], 3, axis=2)
    return Patch(int(x0 + columns[0]), int(y0 + rows[0]), change, weight)


def make_face_mask(landmarks5: np.ndarray, size: int) -> np.ndarray:
    """Returns a mask of the face, float32 (size, size): 0 outside an ellipse, and rising smoothly to 1 inside.

    `landmarks5` (5, 2) are in pixels of the crop. An affine map moves the ellipse of the mean face to this face. The
    map is the least squares fit of the mean face's landmarks to `landmarks5`, and its stretch is limited.
    """
    template = scale_template(FFHQ_512, FFHQ_SIZE, size)
    mean, own_mean = template.mean(0), np.asarray(landmarks5, np.float64).mean(0)
    linear = np.linalg.lstsq(template - mean, np.asarray(landmarks5, np.float64) - own_mean, rcond=None)[0].T
    u, stretch, vt = np.linalg.svd(linear)
    linear = (u * np.clip(stretch, _LEAST_STRETCH, 1 / _LEAST_STRETCH)) @ vt
    # Map each pixel back to the template. `radius` is 1 on the ellipse.
    y, x = np.mgrid[:size, :size]
    points = (np.stack([x, y], -1) - own_mean) @ np.linalg.inv(linear).T + mean
    radius = np.linalg.norm(((points + 0.5) / size - _CENTRE) / _HALF_AXES, axis=-1)
    return _rise((1 - radius) / FEATHER)


def match_edge(change: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns a change (S, S, 3) without the shift of colour and brightness that it has at the edge of a mask (S, S).

    The edge is where the mask is between 0 and 1. The low frequencies of the change at the edge are extended to the
    whole face and subtracted from the change. The restored face then has the colour and the brightness of the skin
    around it. `change` and `mask` are float32.
    """
    sigma = _LOW_FREQUENCIES * mask.shape[0]
    ring = 4 * mask * (1 - mask)
    # Far from the ring, `total` is almost 0, and `low` is the mean change on the ring.
    blurred = cv2.GaussianBlur(np.dstack([change * ring[..., None], ring]), (0, 0), sigma)
    total = blurred[..., 3:]
    mean = (change * ring[..., None]).sum((0, 1)) / max(float(ring.sum()), 1e-6)
    low = (blurred[..., :3] + 1e-3 * mean) / (total + 1e-3)
    return np.asarray(change - low, np.float32)


def blend_patches(patches: Sequence[Patch]) -> list[Patch]:
    """Returns the patches with smaller weights where faces overlap, so that the weights of a pixel add up to at most
    1."""
    if len(patches) < 2:
        return list(patches)
    blended = []
    for patch in patches:
        height, width = patch.weight.shape
        total = np.zeros((height, width), np.float32)
        for other in patches:
            x0, y0 = max(patch.x, other.x), max(patch.y, other.y)
            x1 = min(patch.x + width, other.x + other.weight.shape[1])
            y1 = min(patch.y + height, other.y + other.weight.shape[0])
            if x0 < x1 and y0 < y1:
                part = other.weight[y0 - other.y : y1 - other.y, x0 - other.x : x1 - other.x]
                total[y0 - patch.y : y1 - patch.y, x0 - patch.x : x1 - patch.x] += part
        blended.append(Patch(patch.x, patch.y, patch.change, patch.weight / np.maximum(total, 1)))
    return blended


def round_to_levels(values: np.ndarray) -> np.ndarray:
    """Returns values as uint8: clamped to 0..255 and rounded."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def is_gray(photo: np.ndarray) -> bool:
    """Returns whether a photo, uint8 (H, W, 3), is gray: the channels of each pixel differ by at most 2 levels
    (ours)."""
    spread = photo.reshape(-1, 3)
    for start in range(0, len(spread), 2**20):
        part = spread[start : start + 2**20].astype(np.int16)
        if np.ptp(part, axis=1).max(initial=0) > 2:
            return False
    return True


def _resize_to_photo(
    change: np.ndarray, mask: np.ndarray, back: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Maps a change (S, S, 3) and its mask (S, S) to a patch of `size` (width, height) pixels by the similarity `back`.

    If the patch has a lower resolution than the crop, the change is first reduced by area averages, which prevents
    aliasing. If the patch has a higher resolution, the change is enlarged bicubically.
    """
    side, scale = mask.shape[0], compute_scale(back)  # photo pixels per crop pixel
    if scale < 1:
        small = max(1, round(side * scale))
        change = cv2.resize(change, (small, small), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, (small, small), interpolation=cv2.INTER_AREA)
        factor = side / small
        back = np.hstack([back[:, :2] * factor, (back[:, 2] + back[:, :2] @ np.full(2, 0.5 * factor - 0.5))[:, None]])
    change = cv2.warpAffine(change, back, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return change, cv2.warpAffine(mask, back, size, flags=cv2.INTER_LINEAR)


def _feather_inside(valid: np.ndarray) -> np.ndarray:
    """Returns weights, float32 (S, S): 0 at pixels that are not valid, and rising to 1 with the distance from them."""
    if valid.all():
        return np.ones(valid.shape, np.float32)
    distance = cv2.distanceTransform(valid.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return _rise(distance / (_BORDER_FEATHER * valid.shape[0]))


def _rise(values: np.ndarray) -> np.ndarray:
    """Maps values to a smooth step, float32: 0 for values of 0 or less, and 1 for values of 1 or more."""
    edge = np.clip(values, 0, 1)
    return np.asarray(edge * edge * (3 - 2 * edge), np.float32)
