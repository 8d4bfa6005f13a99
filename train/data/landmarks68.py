"""Finds the 68 iBUG landmarks of aligned crops with dlib (extra `offline`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np

from curate.faces.align import FFHQ_SIZE
from curate.faces.errors import FaceModelError

# The box of the face (left, top, right, bottom) in which dlib looks for landmarks. The box is the median of the boxes
# that dlib's detector finds in the 512 px FFHQ crops of 46 web photos (ours). All images get the same box, so that
# errors of a detector do not move the landmarks.
BOX = np.array([98, 138, 409, 455], np.float32)


def explain_missing() -> str | None:
    """Returns in one sentence why dlib cannot find the 68 points on this machine, or None if dlib can find them."""
    if importlib.util.find_spec("dlib") is None:
        return "dlib is not installed: pip install 'likeness[offline]'."
    from curate.faces.models.dlib_models import find_model_folder

    try:
        find_model_folder()
    except FaceModelError as error:
        return str(error)
    return None


def find_predictor() -> Path | None:
    """Returns the path of dlib's model of the 68 points, or None if dlib's models are not installed."""
    if explain_missing() is not None:
        return None
    from curate.faces.models.dlib_models import list_landmark_files

    return list_landmark_files()[0].path


def find_68_points(image: np.ndarray) -> np.ndarray:
    """Returns the 68 iBUG points of an aligned crop, uint8 (S, S, 3), even if the crop shows no face.

    The image is first resized to 512 px. The result is (68, 2), in pixels of the resized crop. dlib returns whole
    pixels.
    """
    from curate.faces.models.dlib_models import find_landmarks68

    if image.shape[0] != FFHQ_SIZE:
        interpolation = cv2.INTER_AREA if image.shape[0] > FFHQ_SIZE else cv2.INTER_LINEAR
        image = cv2.resize(image, (FFHQ_SIZE, FFHQ_SIZE), interpolation=interpolation)
    return find_landmarks68(image, BOX).astype(np.float64)
