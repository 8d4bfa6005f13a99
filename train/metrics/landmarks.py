"""Finds the landmarks of a face and computes distances between landmarks, in pixels of a 512 px crop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from curate.faces.align import FFHQ_SIZE
from curate.faces.interface import FaceModels
from train.data.landmarks import choose_largest_face, detect_faces_in_all

# Indices of the 68 iBUG points. EYES has the brows and the eyes, and MOUTH has the mouth. ASFFNet chooses a reference
# by the same points.
EYES = (*range(17, 27), *range(36, 48))
MOUTH = tuple(range(48, 68))
# Points coincide in a direction if their spread in this direction is at most this number of pixels (ours). The spread
# is the root of the sum of the squared distances from the centre. Coordinates near 512 have rounding errors of 1e-13
# pixels in float64, so a much smaller spread could be a rounding error.
COINCIDENT = 1e-7


def find_5_points(image: np.ndarray, judge: FaceModels) -> np.ndarray:
    """Returns the five landmarks of the largest face that the judge's detector finds in an aligned crop.

    `image` is uint8 (S, S, 3). The result is (5, 2), in pixels of a 512 px crop. All values are NaN if no face is
    found.
    """
    return find_5_points_in_all([image], judge)[0]


def find_5_points_in_all(images: Sequence[np.ndarray], judge: FaceModels) -> list[np.ndarray]:
    """Returns the result of `find_5_points` for each image. On a GPU, the detector searches several images in one
    run."""
    points = []
    for image, faces in zip(images, detect_faces_in_all(images, judge), strict=True):
        landmarks = choose_largest_face(faces).landmarks5 if faces else np.full((5, 2), math.nan)
        points.append(np.asarray((np.asarray(landmarks, np.float64) + 0.5) * (FFHQ_SIZE / image.shape[0]) - 0.5))
    return points


def point_distance(restored: np.ndarray, target: np.ndarray) -> list[float]:
    """Returns the mean Euclidean distance between restored and target points, both (B, n, 2), for each of the B faces.

    Lower is better. The distance is NaN if a point is NaN.
    """
    apart = np.asarray(restored, np.float64) - np.asarray(target, np.float64)
    return [float(value) for value in np.linalg.norm(apart, axis=2).mean(1)]


def affine_distance(restored: np.ndarray, target: np.ndarray, reduction: str = "fro") -> list[float]:
    """Returns the distance between target points and affinely mapped restored points, both (B, n, 2), for each face
    (ALD).

    We have not seen HonestFace's formula of ALD, so this formula is ours. The affine map is the least-squares map from
    the restored points to the target points. ASFFNet chooses a reference by the same distance. `reduction` is "fro" for
    the Frobenius norm of the residual, or "mean" for the mean distance over points. The distance is 0 for a face that
    was only moved, turned or stretched as a whole. For such changes, see `affine_change`. The distance is NaN if a
    point is NaN.

    If the restored points coincide in a direction (see COINCIDENT), the map does not stretch them in this direction.
    """
    if reduction not in ("fro", "mean"):
        raise ValueError(f"reduction {reduction!r} is unknown: give 'fro' or 'mean'")
    distances = []
    for points, truth in zip(restored, target, strict=True):
        if not (np.isfinite(points).all() and np.isfinite(truth).all()):
            distances.append(math.nan)
            continue
        left, _, _, _, goal = _decompose(points, truth)
        apart = np.linalg.norm(goal - left @ (left.T @ goal), axis=1)
        distances.append(float(np.linalg.norm(apart) if reduction == "fro" else apart.mean()))
    return distances


def affine_change(restored: np.ndarray, target: np.ndarray) -> list[float]:
    """Returns the Frobenius norm of A - I (ours), where A is the affine map of `affine_distance` and I is the identity.

    A is 3 x 2. The origin of the coordinates is the centre of the target's points. The first two rows of A are the
    linear part. The third row is the shift, divided by the side of the crop. If the restored points have no spread in a
    direction, A is the identity in this direction. The norm is 0 if the restored points are equal to the target's
    points. The norm is NaN if a point is NaN.
    """
    changes = []
    for points, truth in zip(restored, target, strict=True):
        if not (np.isfinite(points).all() and np.isfinite(truth).all()):
            changes.append(math.nan)
            continue
        left, values, right, centred, goal = _decompose(points, truth)
        # `change`, the linear part minus the identity, is the smallest least-squares solution of "centred @ change =
        # goal - centred".
        change = right / values @ (left.T @ (goal - centred))
        # The affine map moves the centre of the restored points to the centre of the target's points.
        shift = (np.mean(truth, 0) - np.mean(points, 0)) @ (np.eye(2) + change) / FFHQ_SIZE
        changes.append(float(np.linalg.norm(np.vstack([change, shift]))))
    return changes


def _decompose(
    points: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (U, s, V, centred points, centred truth). U diag(s) V^T are the centred points.

    Singular values of at most COINCIDENT are left out of s.

    The shapes are (n, k), (k,), (2, k), (n, 2) and (n, 2). Here k is the number of directions in which the points do
    not coincide.
    """
    points, truth = np.asarray(points, np.float64), np.asarray(truth, np.float64)
    centred, goal = points - points.mean(0), truth - truth.mean(0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    distinct = values > COINCIDENT
    return left[:, distinct], values[distinct], right[distinct].T, centred, goal
