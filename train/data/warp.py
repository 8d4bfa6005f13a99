"""ReFine's warp: a reference is laid over the input, landmark on landmark, before anything sees it.

The form of the warp was not seen by us. Ours is the affine that fits five landmarks best (least squares): both faces
are in one template already, so only the foreshortening of a turned head is left, which a similarity cannot remove. An
affine does not bend, so a wrong landmark cannot tear the face. It is refused if it would stretch the face too far.
"""

from __future__ import annotations

import cv2
import numpy as np

# largest factor by which a direction may be stretched or shrunk: beyond it a landmark is wrong (ours)
STRETCH = 1.6


def warp_to(image: np.ndarray, landmarks5: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A reference, uint8 (S,S,3), with its five landmarks (5,2) as near to `to` (5,2) as an affine brings them.

    All in pixels of crops of the same size. Beyond its border the reference is mirrored, as in aligned crops, where a
    repeated edge would be streaks. Raises ValueError where the landmarks give no affine that keeps a face a face (see
    `affine`); callers then show the reference as it is aligned.
    """
    matrix, size = affine(landmarks5, to), (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares affine, float64 (2,3), from `source` (n,2) to `target` (n,2).

    Raises ValueError where they are not finite, lie on a line, or would mirror the face or stretch it beyond STRETCH.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("landmarks are not finite")
    (solved, _, rank, _) = np.linalg.lstsq(np.hstack([source, np.ones((len(source), 1))]), target, rcond=1e-6)
    stretched = np.linalg.svd(solved[:2], compute_uv=False)
    if rank < 3 or np.linalg.det(solved[:2]) <= 0 or stretched[0] > STRETCH or stretched[1] < 1 / STRETCH:
        raise ValueError("landmarks that no face can be warped by")
    return np.ascontiguousarray(solved.T)
