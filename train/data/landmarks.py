"""Find faces and their five landmarks for the restorer: in photos, in aligned crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, fit_similarity, scale_template, transform_points
from curate.faces.interface import Detection, FaceDetector, FaceModels


def detect_faces(image: np.ndarray, models: FaceModels | FaceDetector) -> list[Detection]:
    """The detections that the detector believes and that can be aligned."""
    return [one for one in models.detect(image) if one.score >= models.min_score and _alignable(one.landmarks5)]


def find_landmarks(crop: np.ndarray, models: FaceModels | FaceDetector) -> np.ndarray | None:
    """The five points (5, 2) of the largest face in an aligned crop, in its pixels; None where none is found."""
    found = detect_faces(crop, models)
    return largest_face(found).landmarks5 if found else None


def landmarks_in_crop(landmarks5: np.ndarray, size: int) -> np.ndarray:
    """Landmarks (5, 2) of a photo, in pixels of the crop of `size` that is aligned by them."""
    return transform_points(landmarks5, fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size)))


def largest_face(found: Sequence[Detection]) -> Detection:
    return max(found, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))


def _alignable(landmarks5: np.ndarray) -> bool:
    try:
        fit_similarity(landmarks5, FFHQ_512)
    except ValueError:
        return False
    return True
