"""Runs the detector again on the aligned crop of a face, to check the landmarks and whether the crop is upright."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from curate.faces.align import (
    FFHQ_512,
    FFHQ_SIZE,
    align_face,
    compute_scale,
    fit_similarity,
    invert_affine,
    scale_template,
    transform_points,
    warp,
)
from curate.faces.interface import Detection, FaceDetector, FaceModels
from curate.faces.measure import estimate_pose

# A look is one run of the detector on the aligned crop of a face. CROP is the side of the aligned crop, in pixels
# (ours). A look takes about 1 ms. In our tuning photos, looks at crops of 96 pixels distinguish upright and turned
# faces better than looks at crops of 64, 128 and 192 pixels.
CROP = 96
_TEMPLATE = scale_template(FFHQ_512, FFHQ_SIZE, CROP)
_EYES = float(np.hypot(*(_TEMPLATE[1] - _TEMPLATE[0])))
# Landmarks fit if their landmark error (`Detection.landmark_error`) is at most MAX_LANDMARK_ERROR (ours). Of 277
# upright faces in our tuning photos, 274 have a smaller error. Of 300 faces with boxes of 35 to 76 pixels in group
# photos, 99% have a smaller error. If the crop shows no upright face, the median error is .65.
MAX_LANDMARK_ERROR = 0.3
# If the landmark error of a face is at most SURE_LANDMARK_ERROR (ours), the face counts as upright without more looks.
# Of 187 faces in photos that were turned upside down, 185 have a larger error. Half of the upright faces have a smaller
# error.
SURE_LANDMARK_ERROR = 0.08
# If the scores of two turns of a crop differ by less than MIN_SCORE_MARGIN (ours), the recognizer chooses the turn. For
# 95% of the faces, the upside-down crop has a score that is lower by .04 or more than the score of the upright crop.
MIN_SCORE_MARGIN = 0.05
# A second look confirms a faint face if the score of the look is at least MIN_CONFIRMED_SCORE (ours).
MIN_CONFIRMED_SCORE = 0.6
# If the second look must shrink a part of a photo, the part is first halved repeatedly, until the remaining scale is at
# least _HALVED_BELOW (ours).
_HALVED_BELOW = 1 / 8
# The landmarks of a face are plausible if yaw, pitch and roll of the head are at most _MAX_YAW, _MAX_PITCH and
# _MAX_ROLL degrees (ours). The filter `turned_away` has the same limits of yaw and pitch. A frontal face that lies on
# its side has a roll near 90.
_MAX_YAW, _MAX_PITCH, _MAX_ROLL = 75, 60, 60
# The detector may find several faces in a crop. A detection belongs to the face of the crop if two conditions hold
# (ours). In x and in y, the centre of the detection is at most _MAX_SHIFT of the crop's side away from the centre of
# the crop. The width of the detection is at least _MIN_WIDTH of the crop's side. The face of a crop is half as wide as
# the crop.
_MAX_SHIFT, _MIN_WIDTH = 0.25, 0.25


class Look(NamedTuple):
    """The result of one look: what the detector finds in an aligned crop that was turned by some quarter turns."""

    score: float  # Score of the detected face, or 0 if the detector finds no face.
    landmarks5: np.ndarray  # (5, 2) in pixels of the photo.


def is_sure(face: Detection, least_score: float) -> bool:
    """Returns whether a face has a score of `least_score` or more, and landmarks that are plausible for an upright
    face.
    """
    yaw, pitch, roll = estimate_pose(face.landmarks5)
    return face.score >= least_score and abs(yaw) <= _MAX_YAW and abs(pitch) <= _MAX_PITCH and abs(roll) <= _MAX_ROLL


def look_again(photo: np.ndarray, face: Detection, models: FaceModels | FaceDetector) -> Detection:
    """Returns the face with the turn and the landmark error that a second look at its aligned crop finds.

    The detector first looks at the crop without a turn. If the first look leaves a doubt, the detector also looks at
    the crop upside down. If the landmarks do not fit, the detector looks at the crop at all four turns.

    If a turned crop has the best score, the recognizer compares the face at the new turn and without a turn. The
    landmarks of the new turn replace the landmarks of the face in two cases: the recognizer prefers the new turn, or
    the score of the new turn is clearly better and the recognizer has no preference. If the score of the new turn is
    clearly better but the recognizer prefers the crop without a turn, `is_turn_clear` becomes False.

    If the crop without a turn has the best score but the landmarks of the face do not fit, the detector looks once
    more, to check the landmarks that it found in this crop. If the checked landmarks fit, they replace the landmarks of
    the face.
    """
    if is_faint(face, models):
        return _confirm(photo, face, models)
    looks = {0: _look(photo, face.landmarks5, 0, models)}
    error = _measure_error(face.landmarks5, looks[0])
    face = set_turn(replace(face, landmark_error=error))
    if error <= SURE_LANDMARK_ERROR or (looks[0].score >= models.sure_score and error <= MAX_LANDMARK_ERROR):
        return face
    for turns in (2,) if error <= MAX_LANDMARK_ERROR else (2, 1, 3):
        looks[turns] = _look(photo, face.landmarks5, turns, models)
    best = max(looks, key=lambda turns: looks[turns].score)
    if looks[best].score == 0 or (best == 0 and error <= MAX_LANDMARK_ERROR):
        return face
    other = replace(face, landmarks5=looks[best].landmarks5.astype(np.float32))
    error = _measure_error(other.landmarks5, _look(photo, other.landmarks5, 0, models))
    other = set_turn(replace(other, landmark_error=error))
    if best == 0:
        return other if fits(other) else face
    other = replace(other, score=looks[best].score)
    is_clear = looks[best].score - looks[0].score >= MIN_SCORE_MARGIN
    gain = _compare_lengths(photo, other, face, models)
    if gain >= 0 and (is_clear or gain > 0):
        return other
    return replace(face, is_turn_clear=not is_clear)


def is_faint(face: Detection, models: FaceModels | FaceDetector) -> bool:
    """Returns whether a face is faint: its score is below `min_score`, or below `sure_score` if that is lower.

    A faint face is kept only if a second look confirms it.
    """
    return face.score < min(models.min_score, models.sure_score)


def fits(face: Detection) -> bool:
    """Returns whether the turn of a face is clear and its landmarks fit.

    Returns True for a face without a second look.
    """
    return face.is_turn_clear and (face.landmark_error is None or face.landmark_error <= MAX_LANDMARK_ERROR)


def set_turn(face: Detection) -> Detection:
    """Returns the face with a new `turn`: the multiple of 90 degrees that is nearest to the roll of the face."""
    return replace(face, turn=round(estimate_pose(face.landmarks5)[2] / 90) % 4 * 90)


def _confirm(photo: np.ndarray, face: Detection, models: FaceModels | FaceDetector) -> Detection:
    """Returns the faint face `face`, with a new score if a second look confirms the face.

    If the second look finds an upright face with the same landmarks, `face` gets the score of the second look.
    """
    look = _look(photo, face.landmarks5, 0, models)
    error = _measure_error(face.landmarks5, look)
    if look.score < MIN_CONFIRMED_SCORE or error > MAX_LANDMARK_ERROR:
        return face
    if error > SURE_LANDMARK_ERROR and _look(photo, face.landmarks5, 2, models).score >= look.score:
        return face
    return set_turn(replace(face, score=look.score, landmark_error=error))


def _look(photo: np.ndarray, landmarks5: np.ndarray, turns: int, models: FaceModels | FaceDetector) -> Look:
    """Returns what the detector finds in the aligned crop after `turns` quarter turns. np.rot90 turns the same way."""
    matrix = fit_similarity(landmarks5, _TEMPLATE)
    for _ in range(turns):  # np.rot90 moves the pixel (x, y) of the crop to (y, CROP - 1 - x)
        matrix = np.stack([matrix[1], [0, 0, CROP - 1] - matrix[0]])
    seen = (models.detect_in_crop or models.detect)(_warp_part(photo, matrix))
    centred = [face for face in seen if _is_centred(face.box)]
    if not centred:
        return Look(0.0, np.full((5, 2), np.nan))
    best = max(centred, key=lambda face: face.score)
    return Look(best.score, transform_points(best.landmarks5, invert_affine(matrix)))


def _warp_part(photo: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns the crop that the similarity `matrix` (2, 3) cuts from the photo.

    Only the part of the photo around the crop is resized, which saves time.
    """
    corners = transform_points(np.array([[0, 0], [CROP, 0], [0, CROP], [CROP, CROP]]), invert_affine(matrix))
    height, width = photo.shape[:2]
    x0, y0 = (int(max(edge, 0)) for edge in corners.min(0) - 2)
    x1, y1 = (int(max(edge, 0)) for edge in corners.max(0) + 3)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    part = photo[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ [x0, y0]
    # OpenCV halves a picture ten times faster than it shrinks a picture by another factor.
    while compute_scale(shifted) < _HALVED_BELOW and min(part.shape[:2]) > 1:
        height, width = (side // 2 for side in part.shape[:2])
        part = cv2.resize(part[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        # The pixel centre u of the halved picture is at 2 u + .5 in the picture before it was halved.
        shifted[:, 2] += shifted[:, :2] @ [0.5, 0.5]
        shifted[:, :2] *= 2
    return warp(part, shifted, CROP)


def _is_centred(box: np.ndarray) -> bool:
    x0, y0, x1, y1 = np.asarray(box, np.float64) / CROP
    return bool(abs(x0 + x1 - 1) <= 2 * _MAX_SHIFT and abs(y0 + y1 - 1) <= 2 * _MAX_SHIFT and x1 - x0 >= _MIN_WIDTH)


def _measure_error(landmarks5: np.ndarray, look: Look) -> float:
    """Returns the landmark error of landmarks (5, 2): their distance from the landmarks that `look` found."""
    if look.score == 0:
        return float("inf")
    matrix = fit_similarity(landmarks5, _TEMPLATE)
    shifts = transform_points(landmarks5, matrix) - transform_points(look.landmarks5, matrix)
    return float(np.sqrt((shifts**2).sum(1).mean()) / _EYES)


def _compare_lengths(photo: np.ndarray, a: Detection, b: Detection, models: FaceModels | FaceDetector) -> float:
    """Returns the length of the embedding of `a` minus the length of the embedding of `b`.

    Returns 0 if the length of an embedding says nothing about the face.
    """
    if not isinstance(models, FaceModels) or models.embed_raw is None:
        return 0.0
    chips = [align_face(photo, face.landmarks5, models.template, models.size) for face in (a, b)]
    first, second = np.linalg.norm(models.embed_raw(np.stack(chips)), axis=1).tolist()
    return float(first - second)
