"""Warps a reference so that its landmarks are close to the landmarks of the input, as in ReFine.

ReFine warps each reference before the model reads it. ReFine's release warps with a mesh of 468 points, and leaves the
area around the face black. We use the affine map that fits the five landmarks best (least squares). Reference and input
are already aligned to the same template. The face of a turned head is still narrower than a frontal face after
alignment. A similarity transform cannot widen the narrower face, but an affine map can. An affine map does not bend
lines, so a wrong landmark cannot tear the face apart. `affine` refuses a map that stretches the face too much.
"""

from __future__ import annotations

import cv2
import numpy as np

# The warp can stretch or shrink the face in any direction by at most this factor (ours). A larger factor is a sign that
# a landmark is wrong.
STRETCH = 1.6


def warp_to(image: np.ndarray, landmarks5: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Returns a reference, uint8 (S,S,3), after the affine map from `landmarks5` (5,2) to `to` (5,2).

    All landmarks are in pixels of crops with the same size. The area outside the reference is filled with mirrored
    pixels, because repeated border pixels would give streaks. Alignment also fills the area outside a photo with
    mirrored pixels. Raises ValueError if `affine` refuses the landmarks. Callers then use the reference without a
    warp.
    """
    matrix, size = affine(landmarks5, to), (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the least-squares affine map, float64 (2,3), from `source` (n,2) to `target` (n,2).

    Raises ValueError if a point is not finite, or if all points of `source` are on one line. Raises ValueError also if
    the map would mirror the face, or would stretch or shrink the face by a factor above STRETCH.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("the landmarks contain NaN or infinity")
    (solution, _, rank, _) = np.linalg.lstsq(np.hstack([source, np.ones((len(source), 1))]), target, rcond=1e-6)
    factors = np.linalg.svd(solution[:2], compute_uv=False)
    if rank < 3 or np.linalg.det(solution[:2]) <= 0 or factors[0] > STRETCH or factors[1] < 1 / STRETCH:
        raise ValueError("the landmarks would distort the face too much")
    return np.ascontiguousarray(solution.T)
