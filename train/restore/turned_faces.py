"""Find faces in photos of any orientation: upright, sideways and upside down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from curate.faces.interface import Detection, FaceDetector, FaceModels
from curate.faces.measure import estimate_pose
from train.data.landmarks import detect_faces

# A face that is found upright with at least this score is not searched in turned copies of the photo (ours). The
# detector of insightface_small gives the largest face of 31 of 37 web photos a score of .76 or more. It gives an
# upside-down face .50 to .74, with the eyes and the mouth exchanged.
SURE_SCORE = 0.75
# The landmarks of a face are plausible if the head's yaw and pitch, in degrees, are below these limits (ours). The
# limits are those of the curation filter `turned_away`. A frontal face that lies on its side gets a roll near 90.
_MAX_YAW, _MAX_PITCH, _MAX_ROLL = 75, 60, 60
# Two detections are the same face if the smaller box has at least this share of its area in the larger box (ours).
_SAME_PLACE = 0.4


def find_faces_at_any_turn(photo: np.ndarray, models: FaceModels | FaceDetector) -> list[Detection]:
    """Returns the faces of a photo, uint8 (H, W, 3), also the faces that lie on their side or upside down.

    The detector first sees the photo as it is. If it finds no face, or a face with a score below SURE_SCORE or with
    implausible landmarks, then the detector also sees the photo turned by 90, 180 and 270 degrees. Of the detections
    at one place, the function returns the detection with plausible landmarks and the best score. A face at a place
    where the upright photo has no face is returned only if the upright photo has no sure face at all.

    Boxes and landmarks are in pixels of the photo as it is. `left eye` means left in the image of the upright face, so
    that `align_face` turns every face upright. The largest face is not always first.
    """
    upright = detect_faces(photo, models)
    if upright and all(_is_sure(face) for face in upright):
        return upright
    candidates = [(face, _is_plausible(face)) for face in upright]
    for turns in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(photo, turns))
        for face in detect_faces(turned, models):
            candidates.append((_turn_back(face, turns, photo.shape[1], photo.shape[0]), _is_plausible(face)))
    candidates.sort(key=lambda pair: (pair[1], pair[0].score), reverse=True)
    faces: list[Detection] = []
    for face, _ in candidates:
        if not any(_overlap(face.box, other.box) >= _SAME_PLACE for other in faces):
            faces.append(face)
    if any(_is_sure(face) for face in upright):
        return [face for face in faces if any(_overlap(face.box, one.box) >= _SAME_PLACE for one in upright)]
    return faces


def find_face_in_box(
    photo: np.ndarray, box: tuple[float, float, float, float], models: FaceModels | FaceDetector
) -> Detection | None:
    """Returns the face, at any turn, whose place is best described by `box` (x0, y0, x1, y1), or None.

    The detector sees the box and half its side around the box, which makes a small face larger for the detector.
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
        for face in find_faces_at_any_turn(np.ascontiguousarray(photo[y0:y1, x0:x1]), models)
    ]
    inside = [face for face in faces if _overlap(face.box, np.array(box)) >= _SAME_PLACE]
    return max(inside, key=lambda face: _overlap(face.box, np.array(box)), default=None)


def _is_sure(face: Detection) -> bool:
    return face.score >= SURE_SCORE and _is_plausible(face)


def _is_plausible(face: Detection) -> bool:
    yaw, pitch, roll = estimate_pose(face.landmarks5)
    return abs(yaw) <= _MAX_YAW and abs(pitch) <= _MAX_PITCH and abs(roll) <= _MAX_ROLL


def _turn_back(face: Detection, turns: int, width: int, height: int) -> Detection:
    """Maps a face from the photo turned by `turns` * 90 degrees (as np.rot90 turns) to the photo itself."""

    def turn_points_back(points: np.ndarray, last: np.ndarray) -> np.ndarray:
        # `last` is the largest coordinate (x, y) of the photo: of pixel centres for landmarks, of edges for boxes
        x, y = points[:, 0], points[:, 1]
        back = {1: (last[0] - y, x), 2: (last[0] - x, last[1] - y), 3: (y, last[1] - x)}[turns]
        return np.stack(back, axis=1).astype(points.dtype)

    landmarks = turn_points_back(np.asarray(face.landmarks5), np.array([width - 1, height - 1]))
    corners = turn_points_back(np.asarray(face.box).reshape(2, 2), np.array([width, height]))
    return replace(face, box=np.concatenate([corners.min(0), corners.max(0)]), landmarks5=landmarks)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the area that two boxes share, divided by the area of the smaller box."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    smaller = min(float(np.prod(a[2:] - a[:2])), float(np.prod(b[2:] - b[:2])))
    return float(np.prod(np.maximum(sides, 0))) / max(smaller, 1e-6)
