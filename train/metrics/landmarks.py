"""How far the parts of a face moved: distances between landmarks, in pixels of a 512 px crop."""

from __future__ import annotations

import importlib.util
import math

import cv2
import numpy as np

from curate.faces.align import FFHQ_SIZE
from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceModels
from train.data.landmarks import find_landmarks

# Among 68 iBUG points, as in ASFFNet's choice of a reference: brows with eyes, and the mouth
EYES = (*range(17, 27), *range(36, 48))
MOUTH = tuple(range(48, 68))
# Where dlib's detector sees the face of an FFHQ crop of 512 px: the median over 46 web photos (ours). One box for all
# images, so that no detector's trembling is in the distances.
BOX = np.array([98, 138, 409, 455], np.float32)


def explain_missing() -> str | None:
    """Why no 68 points can be found, in one sentence; None where they can."""
    if importlib.util.find_spec("dlib") is None:
        return "dlib is not installed: pip install 'likeness[offline]'."
    from curate.faces.dlib_models import find_model_folder

    try:
        find_model_folder()
    except FaceModelError as error:
        return str(error)
    return None


def find_5_points(image: np.ndarray, judge: FaceModels) -> np.ndarray:
    """(5, 2) of the face that the judge's detector finds in an aligned crop, uint8 (S, S, 3); NaN where there is none.

    In pixels of a 512 px crop.
    """
    found = find_landmarks(image, judge)
    if found is None:
        return np.full((5, 2), math.nan)
    return np.asarray((np.asarray(found, np.float64) + 0.5) * (FFHQ_SIZE / image.shape[0]) - 0.5)


def find_68_points(image: np.ndarray) -> np.ndarray:
    """(68, 2) iBUG points of an aligned crop, uint8 (S, S, 3), whether it shows a face or not.

    Whole pixels of a 512 px crop, which the image is brought to first: dlib gives no fractions.
    """
    from curate.faces.dlib_models import find_landmarks68

    if image.shape[0] != FFHQ_SIZE:
        how = cv2.INTER_AREA if image.shape[0] > FFHQ_SIZE else cv2.INTER_LINEAR
        image = cv2.resize(image, (FFHQ_SIZE, FFHQ_SIZE), interpolation=how)
    return find_landmarks68(image, BOX).astype(np.float64)


def point_distance(restored: np.ndarray, target: np.ndarray) -> list[float]:
    """Mean Euclidean distance between points (B, n, 2) and (B, n, 2); lower is better, NaN where a point is."""
    apart = np.asarray(restored, np.float64) - np.asarray(target, np.float64)
    return [float(value) for value in np.linalg.norm(apart, axis=2).mean(1)]


def affine_distance(restored: np.ndarray, target: np.ndarray, reduction: str = "fro") -> list[float]:
    """ALD (ours): what the best affine map from restored points (B, n, 2) to the target's leaves of their distance.

    HonestFace reports ALD without a formula. Here it is the residual [P 1] A - G of the least-squares A, with which
    ASFFNet chooses a reference: its Frobenius norm ("fro"), or the mean distance over points ("mean"). A face that
    moved, turned or was stretched as a whole has none, see `affine_change`. NaN where a point is.
    """
    if reduction not in ("fro", "mean"):
        raise ValueError(f"reduction is 'fro' or 'mean', not {reduction!r}")
    left = []
    for points, truth in zip(restored, target, strict=True):
        if not (np.isfinite(points).all() and np.isfinite(truth).all()):
            left.append(math.nan)
            continue
        centred, goal = _about(points, truth)
        apart = np.linalg.norm(_extended(centred) @ _fit(centred, goal) - goal, axis=1)
        left.append(float(np.linalg.norm(apart) if reduction == "fro" else apart.mean()))
    return left


def affine_change(restored: np.ndarray, target: np.ndarray) -> list[float]:
    """||A - I|| (ours): how much the map of `affine_distance` changes, which that distance does not see.

    The Frobenius norm of the 3 x 2 matrix less the identity: the linear part about the centre of the target's points,
    and the shift in sides of the crop. 0 for points that need no map. NaN where a point is.
    """
    changes = []
    for points, truth in zip(restored, target, strict=True):
        if not (np.isfinite(points).all() and np.isfinite(truth).all()):
            changes.append(math.nan)
            continue
        centred, goal = _about(points, truth)
        matrix = _fit(centred / FFHQ_SIZE, goal / FFHQ_SIZE)
        changes.append(float(np.linalg.norm(matrix - np.eye(3, 2))))
    return changes


def _about(points: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both about the centre of the second."""
    truth = np.asarray(truth, np.float64)
    return np.asarray(points, np.float64) - truth.mean(0), truth - truth.mean(0)


def _extended(points: np.ndarray) -> np.ndarray:
    return np.hstack([points, np.ones((len(points), 1))])


def _fit(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(3, 2): the least-squares affine map, of the smallest norm where the points lie on a line."""
    return np.linalg.lstsq(_extended(points), truth, rcond=None)[0]
