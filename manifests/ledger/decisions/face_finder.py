"""Finds the faces that a decision names in the present dataset.

A decision names a face by the hash of its photo and a box. A later detection may move the box of a face a little. In
the photo, the face whose present box overlaps the recorded box most is therefore the face that the decision means.
If the intersection over union of the two boxes is below MIN_OVERLAP, the present dataset does not have the face.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision, FaceLocation
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.records import Face

# Least intersection over union of a recorded box and a present box (ours; a usual limit for detectors).
MIN_OVERLAP = 0.5


class FaceFinder:
    """Finds the present face at the location that a decision names."""

    def __init__(self, faces: Iterable[Face]) -> None:
        self._faces_of_photo: dict[str, list[Face]] = defaultdict(list)
        # photo -> box -> the result of `find`, which is kept because many decisions name the same faces
        self._found: dict[str, dict[tuple[float, ...], tuple[Face | None, str]]] = defaultdict(dict)
        for face in faces:
            self._faces_of_photo[face.photo_id].append(face)

    def find(self, location: FaceLocation) -> tuple[Face | None, str]:
        """Returns the face at a location, or None, and a text. The text is empty if the face is in use.

        If the face was dropped, the text names the reason. If there is no face, the text says why.
        """
        found = self._found[location.photo_id]
        if location.box not in found:
            found[location.box] = self._search(location)
        return found[location.box]

    def replace_faces(self, faces: Iterable[Face]) -> None:
        """Replaces the rows of these faces in the finder."""
        for face in faces:
            rows = self._faces_of_photo[face.photo_id]  # a copy of the finder may share this list
            self._faces_of_photo[face.photo_id] = [face if row.face_id == face.face_id else row for row in rows]
            self._found.pop(face.photo_id, None)

    def copy(self) -> FaceFinder:
        """Returns a new finder with the same faces. `replace_faces` of the copy does not change the original."""
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
    """Returns a dict that maps the id of a dropped face to the newest drop in force that names the face."""
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

    Faces that no such decision names are left out. All of `decisions` count, also decisions that an undo took back. If
    two faces overlap the recorded box, the decision names the face with the larger overlap, even if this face is not in
    use.
    """
    accepts = [decision for decision in decisions if decision.kind == "accept"]
    photos = {location.photo_id for decision in accepts for location in decision.parts[0]}
    # a finder prefers faces in use, so all faces get the status ok here
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
    """Returns each location in a decision whose face is not in use now, and why the face is not in use.

    A location is left out if this decision itself dropped the face. Each location is returned only once.
    """
    unused: dict[tuple[str, tuple[float, ...]], tuple[FaceLocation, str]] = {}
    for location in (location for part in decision.parts for location in part):
        face, cause = finder.find(location)
        dropped_here = decision.kind == "drop" and face is not None and face.reason == DROPPED_BY_DECISION
        if cause and not dropped_here:
            unused.setdefault((location.photo_id, location.box), (location, cause))
    return list(unused.values())
