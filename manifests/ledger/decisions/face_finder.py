"""Finds the faces of a decision in today's dataset.

A decision names a face by the hash of its photo and a box. A later detection may move the box of a face a little. The
face of a decision is therefore the photo's face whose box today has the largest overlap with the recorded box. If the
intersection over union of these two boxes is below MIN_OVERLAP, today's dataset does not have the face of the decision.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision, FaceLocation
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.records import Face

MIN_OVERLAP = 0.5  # Least intersection over union of a recorded box and today's box (ours; usual for detectors).


class FaceFinder:
    """Finds today's face at the location that a decision names."""

    def __init__(self, faces: Iterable[Face]) -> None:
        self._faces_of_photo: dict[str, list[Face]] = defaultdict(list)
        # photo -> box -> result of `find`; most decisions about a person name the same faces
        self._found: dict[str, dict[tuple[float, ...], tuple[Face | None, str]]] = defaultdict(dict)
        for face in faces:
            self._faces_of_photo[face.photo_id].append(face)

    def find(self, location: FaceLocation) -> tuple[Face | None, str]:
        """Returns the face at a location, and an empty text if the face is in use.

        If the face was dropped, the text is the reason for the drop. If no face is at the location, returns None and
        the cause as text.
        """
        found = self._found[location.photo_id]
        if location.box not in found:
            found[location.box] = self._search(location)
        return found[location.box]

    def replace_faces(self, faces: Iterable[Face]) -> None:
        """Replaces the rows of faces that the finder knows."""
        for face in faces:
            rows = self._faces_of_photo[face.photo_id]  # a copy of the finder may share this list
            self._faces_of_photo[face.photo_id] = [face if row.face_id == face.face_id else row for row in rows]
            self._found.pop(face.photo_id, None)

    def copy(self) -> FaceFinder:
        """Returns a finder of the same faces. `replace_faces` of the copy does not change the original."""
        finder = FaceFinder(())
        finder._faces_of_photo, finder._found = self._faces_of_photo.copy(), self._found.copy()
        return finder

    def select_photos(self, photo_ids: Iterable[str]) -> list[Face]:
        """Returns the faces in these photos."""
        return [face for photo_id in photo_ids for face in self._faces_of_photo.get(photo_id, ())]

    def _search(self, location: FaceLocation) -> tuple[Face | None, str]:
        overlaps = [
            (measure_overlap(face.box, location.box), face) for face in self._faces_of_photo.get(location.photo_id, ())
        ]
        near = [(overlap, face) for overlap, face in overlaps if overlap >= MIN_OVERLAP]
        if not near:
            return None, "the photo has no face at this place now" if overlaps else "the photo is not in the dataset"
        # a near-duplicate counts as a face in use, because a copy of the face is in use
        usable = [(overlap, face) for overlap, face in near if face.status == "ok" or face.duplicate_of is not None]
        _, best = min(usable or near, key=lambda item: (-item[0], item[1].face_id))
        return best, "" if usable else f"dropped, {best.reason}"


def find_drops(decisions: Iterable[Decision], faces: Iterable[Face]) -> dict[str, Decision]:
    """Returns a dict that maps the id of each face that a drop in force names to the newest such drop."""
    finder = FaceFinder(faces)
    drops: dict[str, Decision] = {}
    for decision in select_active(decisions):
        for location in decision.parts[0] if decision.kind == "drop" else ():
            face, _ = finder.find(location)
            if face is not None:
                drops[face.face_id] = decision
    return drops


def find_accepts(decisions: Iterable[Decision], faces: Iterable[Face]) -> dict[str, Decision]:
    """Returns a dict that maps the id of a face to the newest decision of the kind accept that names the face.

    Faces that no such decision names are left out. A decision in `decisions` counts even if an undo takes it back. If
    two faces overlap the recorded box, the decision names the face with the larger overlap, even if this face is not in
    use.
    """
    accepts = [decision for decision in decisions if decision.kind == "accept"]
    photos = {location.photo_id for decision in accepts for location in decision.parts[0]}
    # a finder prefers faces in use, so all faces are passed as faces in use
    finder = FaceFinder(replace(face, status="ok") for face in faces if face.photo_id in photos)
    found = [(finder.find(location)[0], decision) for decision in accepts for location in decision.parts[0]]
    return {face.face_id: decision for face, decision in found if face is not None}


def measure_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the intersection over union of two boxes (x0, y0, x1, y1), a number from 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    areas = sum(max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (a, b))
    return intersection / (areas - intersection) if areas > intersection else 0.0


def find_unused_faces(decision: Decision, finder: FaceFinder) -> list[tuple[FaceLocation, str]]:
    """Returns the locations of a decision's faces that are not in use today, each with the cause.

    A face that this decision dropped is not returned. A face that the decision names twice is returned one time.
    """
    unused: dict[tuple[str, tuple[float, ...]], tuple[FaceLocation, str]] = {}
    for location in (location for part in decision.parts for location in part):
        face, cause = finder.find(location)
        dropped_here = decision.kind == "drop" and face is not None and face.reason == DROPPED_BY_DECISION
        if cause and not dropped_here:
            unused.setdefault((location.photo_id, location.box), (location, cause))
    return list(unused.values())
