"""Finds faces and their five landmarks in photos and in aligned crops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, fit_similarity, scale_template, transform_points
from curate.faces.find_faces import can_be_aligned
from curate.faces.interface import Detection, FaceDetector, FaceModels


def detect_faces(image: np.ndarray, models: FaceModels | FaceDetector) -> list[Detection]:
    """Returns the faces detected in an image, uint8 (H, W, 3).

    The function leaves out a face whose score is below `models.min_score`, or whose landmarks cannot be used for the
    alignment.
    """
    return _select_usable(models.detect(image), models)


def detect_faces_in_all(images: Sequence[np.ndarray], models: FaceModels) -> list[list[Detection]]:
    """Returns the result of `detect_faces` for each image. Some detectors search several images in one run."""
    if models.detect_many is None or models.photos_at_once == 1:
        return [detect_faces(image, models) for image in images]
    found, start = list[list[Detection]](), 0
    while start < len(images):
        group = images[start : start + models.photos_at_once]
        # The second argument is the smallest distance between the eyes. With an infinite distance, `detect_many` does
        # not search for small faces. `detect` does not search for them either.
        found += [_select_usable(faces, models) for faces in models.detect_many(group, math.inf)]
        start += len(group)
    return found


def _select_usable(faces: Sequence[Detection], models: FaceModels | FaceDetector) -> list[Detection]:
    return [face for face in faces if face.score >= models.min_score and can_be_aligned(face)]


def find_landmarks(crop: np.ndarray, models: FaceModels | FaceDetector) -> np.ndarray | None:
    """Returns the five landmarks (5, 2) of the largest face in a crop, in pixels, or None if no face is found."""
    detections = detect_faces(crop, models)
    return choose_largest_face(detections).landmarks5 if detections else None


def choose_largest_face(detections: Sequence[Detection]) -> Detection:
    """Returns the detection with the largest box."""
    return max(detections, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def map_to_crop(landmarks5: np.ndarray, size: int) -> np.ndarray:
    """Maps the landmarks (5, 2) of a face from pixels of the photo to pixels of its aligned `size` x `size` crop."""
    return transform_points(landmarks5, fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size)))
