"""Converts the boxes and landmarks of a photo, and the boxes in decisions, if orientation or size of the photo changes.

The ids of the faces do not change. The crops and embeddings are made again only if the new photo is mirrored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from curate.faces.align import MIRRORED_LANDMARKS
from curate.faces.measure import estimate_pose
from manifests.ledger.decisions.decision_log import change_locations, encode_faces, parse_decision
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import DecisionRow, Face, remove_embedding

Turn = tuple[tuple[int, int], tuple[int, int]]

# EXIF orientation -> the matrix that turns or mirrors the stored picture about its centre, so that the picture is
# upright (EXIF 2.32, 4.6.4 A). x points right and y points down.
_TURNS: dict[int, Turn] = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, -1), (1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, 1), (-1, 0)),
}
# The order of the 68 iBUG points in a mirrored face: jaw, brows, nose, eyes, outer lips, inner lips
_MIRRORED_68 = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
]  # fmt: skip


@dataclass(frozen=True)
class FrameChange:
    """The change of the coordinates in a photo: first a turn or mirroring about the centre, then a resize."""

    photo_id: str
    before: tuple[int, int]  # Width, height of the upright photo before the change.
    after: tuple[int, int]  # Width, height of the upright photo after the change.
    turn: Turn = _TURNS[1]

    @property
    def is_mirrored(self) -> bool:
        """Returns whether the left side of a face becomes its right side."""
        (a, b), (c, d) = self.turn
        return a * d - b * c < 0

    def turn_face(self, degrees: int) -> int:
        """Converts the turn of a face (`Detection.turn`), in degrees, from the old photo to the new photo."""
        up = np.array([np.sin(np.radians(degrees)), -np.cos(np.radians(degrees))])
        x, y = np.array(self.turn) @ up
        return round(np.degrees(np.arctan2(x, -y))) % 360

    def move(self, points: Sequence[float], centre: float = 0.0) -> np.ndarray:
        """Converts points x, y, x, y, ... of the old photo to points of the new photo, float64 (n, 2).

        `centre` is the coordinate of the centre of the first pixel: 0.5 for edges of boxes, and 0 for landmarks.
        """
        turn, shift = np.array(self.turn, np.float64), 0.5 - centre
        size = np.abs(turn) @ self.before  # width and height of the turned photo before the resize
        turned = (np.array(points).reshape(-1, 2) + shift - np.array(self.before) / 2) @ turn.T + size / 2
        return turned * (np.array(self.after) / size) - shift

    def move_box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Converts a box (x0, y0, x1, y1) of the old photo to a box of the new photo."""
        corners = self.move(box, centre=0.5)
        (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
        return x0, y0, x1, y1


def find_turn(old_orientation: int, new_orientation: int) -> Turn:
    """Returns the matrix from the old upright photo to the new upright photo, for a change of the EXIF orientation."""
    (a, b), (c, d) = (np.array(_TURNS[new_orientation]) @ np.array(_TURNS[old_orientation]).T).tolist()
    return (a, b), (c, d)


def move_rows(ledger: Ledger, changes: Iterable[FrameChange]) -> list[Face | DecisionRow]:
    """Returns the changed rows of the faces in the changed photos, and of the decisions that name the photos.

    Removes the crops of the faces in mirrored photos, so that the stage `screen` cuts them again.
    """
    change_of = {change.photo_id: change for change in changes}
    if not change_of:
        return []
    rows: list[Face | DecisionRow] = []
    for face in ledger.read_rows(Face, "list_contains(?, photo_id)", list(change_of)):
        rows.append(_move_face(face, change_of[face.photo_id]))
        if change_of[face.photo_id].is_mirrored:
            crop_path(ledger.dataset, face.face_id).unlink(missing_ok=True)
    for row in ledger.read_rows(DecisionRow):
        decision = parse_decision(row)
        moved = change_locations(
            decision,
            lambda face: (
                replace(face, box=change_of[face.photo_id].move_box(face.box)) if face.photo_id in change_of else face
            ),
        )
        if moved != decision:
            rows.append(replace(row, faces=json.dumps(encode_faces(moved))))
    return rows


def _move_face(face: Face, change: FrameChange) -> Face:
    points5 = change.move(face.landmarks5)
    points68 = None if face.landmarks68 is None else change.move(face.landmarks68)
    if change.is_mirrored:
        points5 = points5[MIRRORED_LANDMARKS]
        points68 = None if points68 is None else points68[_MIRRORED_68]
        face = remove_embedding(replace(face, crop_sha256=None))
    yaw, pitch, roll = estimate_pose(points5)
    return replace(
        face,
        turn=None if face.turn is None else change.turn_face(face.turn),
        box=change.move_box(face.box),
        landmarks5=tuple(points5.ravel().tolist()),
        landmarks68=None if points68 is None else tuple(points68.ravel().tolist()),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
    )
