"""Finds the faces of a photo, including small faces in large photos, faces on their side and faces upside down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from curate.faces.align import FFHQ_512, fit_similarity
from curate.faces.interface import Detection, FaceDetector, FaceModels
from curate.faces.second_look import fits, is_faint, is_sure, look_again, set_turn

# Photos are searched for faces whose eyes are MIN_EYES pixels (ours) or more apart. The filter `too_small` drops
# smaller faces.
MIN_EYES = 16.0
# A face counts as large enough if the side of its box is at least BOX_IN_EYES (ours) times the smallest allowed
# distance between the eyes. The box of a frontal face is 2.2 times as wide as the distance between its eyes.
BOX_IN_EYES = 2.0
# If one face of a photo is surely upright, another face of the photo with a score of SURE_BESIDE_SURE (ours) or more
# needs no second look. Of the faces that the detector finds in turned photos, 75% have a score below .69. Most of the
# remaining 25% have a roll near 90, and a face with a roll near 90 always gets a second look.
SURE_BESIDE_SURE = 0.7
# Two detections are one face if the larger box covers at least the share _SAME_PLACE (ours) of the smaller box.
_SAME_PLACE = 0.4


def find_faces(
    photo: np.ndarray,
    models: FaceModels | FaceDetector,
    min_eyes: float = MIN_EYES,
    upright: Sequence[Detection] | None = None,
) -> list[Detection]:
    """Returns the faces of a photo, uint8 (H, W, 3), including faces on their side and faces upside down.

    The scale of the search is chosen for faces whose eyes are at least `min_eyes` pixels apart. Smaller faces are also
    returned if the detector finds them. Faces with a low score or implausible landmarks get a second look
    (curate/faces/second_look.py). If a face is turned by about 90, 180 or 270 degrees, the whole photo is turned so
    that this face is upright, and searched again. If `fits` returns False for every usable face, the photo is turned by
    all three angles, and searched each time.

    Boxes and landmarks are in pixels of the photo before any turn. The first landmark is the eye that is on the left
    when the face is upright. `align_face` therefore turns every face upright. The result also contains faces for which
    `fits` returns False. If `upright` is not None, it contains the faces that `FaceModels.detect_many` found in the
    photo.
    """
    faces = _look_at_turn(photo, models, min_eyes, 0, upright)
    looked = {0}
    while (turn := _choose_next_turn(faces, models, min_eyes, looked)) is not None:
        looked.add(turn)
        for face in _look_at_turn(photo, models, min_eyes, turn):
            if face.turn == turn and fits(face) and _is_usable(face, models, min_eyes):
                faces = _add(face, faces)
    return sorted(faces, key=lambda face: (-face.score, *face.box.tolist()))


def find_face_in_box(
    photo: np.ndarray, box: tuple[float, float, float, float], models: FaceModels | FaceDetector
) -> Detection | None:
    """Returns the face that fits `box` (x0, y0, x1, y1) best, at any turn, or None if no face fits.

    The detector gets only the box and a margin of half the box's longer side, so a small face fills more of the
    detector's input.
    """
    height, width = photo.shape[:2]
    margin = 0.5 * max(box[2] - box[0], box[3] - box[1])
    x0, y0 = (max(int(edge - margin), 0) for edge in box[:2])
    x1, y1 = min(int(box[2] + margin) + 1, width), min(int(box[3] + margin) + 1, height)
    if x0 >= x1 or y0 >= y1:
        return None
    offset = np.array([x0, y0, x0, y0], np.float32)
    faces = [
        replace(face, box=face.box + offset, landmarks5=face.landmarks5 + offset[:2])
        for face in find_usable_faces(np.ascontiguousarray(photo[y0:y1, x0:x1]), models)
    ]
    inside = [face for face in faces if _overlap(face.box, np.array(box)) >= _SAME_PLACE]
    return max(inside, key=lambda face: _overlap(face.box, np.array(box)), default=None)


def find_usable_faces(photo: np.ndarray, models: FaceModels | FaceDetector) -> list[Detection]:
    """Returns the faces of `find_faces` that reach the detector's lowest score and that can be aligned."""
    return [face for face in find_faces(photo, models) if face.score >= models.min_score and can_be_aligned(face)]


def can_be_aligned(face: Detection) -> bool:
    """Returns whether the landmarks of a face are finite and do not coincide."""
    try:
        fit_similarity(face.landmarks5, FFHQ_512)
    except ValueError:
        return False
    return True


def _look_at_turn(
    photo: np.ndarray,
    models: FaceModels | FaceDetector,
    min_eyes: float,
    turn: int,
    seen: Sequence[Detection] | None = None,
) -> list[Detection]:
    """Returns the faces that the detector finds after the photo was turned counterclockwise by `turn` degrees.

    `seen` are the detections in the turned photo, if they are known.
    """
    if seen is None:
        turned = photo if turn == 0 else np.ascontiguousarray(np.rot90(photo, turn // 90))
        seen = models.detect(turned) if models.detect_small is None else models.detect_small(turned, min_eyes)
    usable = [_is_usable(face, models, min_eyes) for face in seen]
    # if one face is surely upright, the other faces are probably upright, so they need only a lower score
    any_sure = any(large and is_sure(face, models.sure_score) for face, large in zip(seen, usable, strict=True))
    least_score = min(models.sure_score, SURE_BESIDE_SURE) if any_sure else models.sure_score
    faces = []
    for face, large in zip(seen, usable, strict=True):
        in_photo = _turn_back(face, turn // 90, photo.shape[1], photo.shape[0])
        if is_faint(face, models):
            if _is_large_enough(face, min_eyes) and not is_faint(
                confirmed := look_again(photo, in_photo, models), models
            ):
                faces.append(confirmed)
        elif not large:
            faces.append(in_photo)
        elif not is_sure(face, least_score):
            faces.append(look_again(photo, in_photo, models))
        else:
            faces.append(set_turn(in_photo))
    return faces


def _choose_next_turn(
    faces: Sequence[Detection], models: FaceModels | FaceDetector, min_eyes: float, looked: set[int]
) -> int | None:
    """Returns the angle by which the photo must be turned for the next search, or None if no other search is needed."""
    fitting = [face for face in faces if _is_usable(face, models, min_eyes) and fits(face)]
    turns = sorted({face.turn for face in fitting}) if fitting else (90, 270, 180)
    return next((turn for turn in turns if turn not in looked), None)


def _is_usable(face: Detection, models: FaceModels | FaceDetector, min_eyes: float) -> bool:
    """Returns whether a face has a high enough score, can be aligned, and is large enough."""
    return face.score >= models.min_score and _is_large_enough(face, min_eyes)


def _is_large_enough(face: Detection, min_eyes: float) -> bool:
    """Returns whether a face can be aligned, and is large enough for eyes that are `min_eyes` pixels apart.

    The size of a face is taken from its box, because wrong landmarks may have a wrong distance between the eyes.
    """
    side = float(np.prod(np.maximum(face.box[2:] - face.box[:2], 0)) ** 0.5)
    return can_be_aligned(face) and side >= BOX_IN_EYES * min_eyes


def _add(face: Detection, faces: Sequence[Detection]) -> list[Detection]:
    """Adds `face` to the faces, and removes worse detections of the same face.

    If `faces` contains a better detection of the same face, `face` is not added.
    """
    same = [other for other in faces if _overlap(face.box, other.box) >= _SAME_PLACE]
    if any(fits(other) and (other.turn != face.turn or other.score > face.score) for other in same):
        return list(faces)
    return [*(other for other in faces if _overlap(face.box, other.box) < _SAME_PLACE), face]


def _turn_back(face: Detection, turns: int, width: int, height: int) -> Detection:
    """Converts the coordinates of a face from a turned photo to the original photo.

    The photo was turned counterclockwise by `turns` * 90 degrees.
    """

    def turn_points_back(points: np.ndarray, last: np.ndarray) -> np.ndarray:
        # `last` is the largest coordinate (x, y) in the photo: the last pixel centre for landmarks, the edge for boxes
        x, y = points[:, 0], points[:, 1]
        back = {1: (last[0] - y, x), 2: (last[0] - x, last[1] - y), 3: (y, last[1] - x)}[turns]
        return np.stack(back, axis=1).astype(points.dtype)

    if turns == 0:
        return face
    landmarks = turn_points_back(np.asarray(face.landmarks5), np.array([width - 1, height - 1]))
    corners = turn_points_back(np.asarray(face.box).reshape(2, 2), np.array([width, height]))
    return replace(face, box=np.concatenate([corners.min(0), corners.max(0)]), landmarks5=landmarks)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the area that two boxes share, divided by the area of the smaller box."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    smaller = min(float(np.prod(a[2:] - a[:2])), float(np.prod(b[2:] - b[:2])))
    return float(np.prod(np.maximum(sides, 0))) / max(smaller, 1e-6)
