"""The decisions of a person as the ledger keeps them, and how the faces of a decision are found in today's dataset.

A decision names a face by the hash of its photo and a box. Detection may run again and move the box a little. The
face of a decision is therefore today's face of that photo with the largest overlap, if the overlap is .5 or more. The
module curate/people/links.py derives the consequences of the decisions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Face

DROPPED_BY_DECISION = "decided"  # the reason of a face that a decision dropped
MAX_NAME = 255  # characters of a person's name: file systems allow as many in the name of a folder (ours)
MIN_OVERLAP = 0.5  # intersection over union of a recorded box and today's box (ours, the usual bound for detectors)
# kind of decision -> the names of its lists of faces; a merge has a list of lists instead, named `sides`
PARTS = {
    "merge": (),
    "split": ("faces", "rest"),
    "move": ("faces", "to", "rest"),
    "drop": ("faces",),
    "rename": ("faces",),
    "lock": ("faces",),
    "undo": (),
}


@dataclass(frozen=True)
class FaceLocation:
    """The place of a face in a decision: a photo and a box.

    A witness is a face that belonged to the person when the decision was made. A witness only shows which person was
    meant.
    """

    photo_id: str
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in photo pixels
    witness: bool = False


@dataclass(frozen=True)
class Decision:
    """A decision with its lists of faces, in the order of PARTS. The lists of a merge are its sides."""

    number: int
    kind: str
    parts: tuple[tuple[FaceLocation, ...], ...] = ()
    name: str | None = None
    undoes: int | None = None


def read_decisions(ledger: Ledger) -> list[Decision]:
    """Returns all decisions of the ledger, the oldest first."""
    return [parse_decision(row) for row in ledger.read_rows(DecisionRow)]


def parse_decision(row: DecisionRow) -> Decision:
    """Returns the decision of a row of the ledger."""
    return Decision(row.decision_id, row.kind, decode_faces(row.kind, json.loads(row.faces)), row.name, row.undoes)


def decode_faces(kind: str, lists: Mapping[str, list]) -> tuple[tuple[FaceLocation, ...], ...]:
    """Returns the lists of faces that `encode_faces` made for a decision of this kind. A missing list is empty."""
    parts = lists["sides"] if kind == "merge" else [lists.get(part, []) for part in PARTS[kind]]
    return tuple(
        tuple(FaceLocation(face["photo"], tuple(face["box"]), bool(face.get("witness", False))) for face in part)
        for part in parts
    )


def encode_faces(decision: Decision) -> dict[str, list]:
    """Returns the faces of a decision as the JSON of the ledger's column `faces` and of a decisions file."""
    lists = [
        [{"photo": f.photo_id, "box": list(f.box), **({"witness": True} if f.witness else {})} for f in part]
        for part in decision.parts
    ]
    return {"sides": lists} if decision.kind == "merge" else dict(zip(PARTS[decision.kind], lists, strict=True))


def select_active(decisions: Iterable[Decision]) -> list[Decision]:
    """Returns the decisions that no active undo takes back, the oldest first, without the undos themselves."""
    undone: set[int] = set()
    active = []
    # newest first, so that an undo is known to be undone before it is applied
    for decision in sorted(decisions, key=lambda decision: -decision.number):
        if decision.number in undone:
            continue
        if decision.kind == "undo":
            undone.add(int(decision.undoes or 0))
        else:
            active.append(decision)
    return active[::-1]


def find_undos(decisions: Iterable[Decision]) -> dict[int, int]:
    """Returns number of a decision -> number of the active undo that takes it back."""
    undos: dict[int, int] = {}
    for decision in sorted(decisions, key=lambda decision: -decision.number):
        if decision.kind == "undo" and decision.number not in undos:
            undos[int(decision.undoes or 0)] = decision.number
    return undos


class FaceFinder:
    """Finds today's face at the location that a decision names."""

    def __init__(self, faces: Iterable[Face]) -> None:
        self._of_photo: dict[str, list[Face]] = defaultdict(list)
        for face in faces:
            self._of_photo[face.photo_id].append(face)

    def find(self, location: FaceLocation) -> tuple[Face | None, str]:
        """Returns the face with the largest overlap and an empty text, if the face is in use.

        Returns a dropped face and the reason for the drop, or None and the reason why there is no face.
        """
        overlaps = [
            (measure_overlap(face.box, location.box), face) for face in self._of_photo.get(location.photo_id, ())
        ]
        near = [(overlap, face) for overlap, face in overlaps if overlap >= MIN_OVERLAP]
        if not near:
            return None, "no face is there now" if overlaps else "its photo is not there"
        # a near-duplicate is in use through the face that stands for it
        usable = [(overlap, face) for overlap, face in near if face.status == "ok" or face.duplicate_of is not None]
        _, best = min(usable or near, key=lambda item: (-item[0], item[1].face_id))
        return best, "" if usable else f"dropped, {best.reason}"


def measure_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the intersection over union of two boxes x0, y0, x1, y1, from 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    areas = sum(max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (a, b))
    return intersection / (areas - intersection) if areas > intersection else 0.0


def find_unused_faces(decision: Decision, finder: FaceFinder) -> list[tuple[FaceLocation, str]]:
    """Returns each face of a decision that is not in use today, once, with the cause.

    A face that this decision itself dropped is left out.
    """
    unused: dict[tuple[str, tuple[float, ...]], tuple[FaceLocation, str]] = {}
    for location in (location for part in decision.parts for location in part):
        face, cause = finder.find(location)
        dropped_here = decision.kind == "drop" and face is not None and face.reason == DROPPED_BY_DECISION
        if cause and not dropped_here:
            unused.setdefault((location.photo_id, location.box), (location, cause))
    return list(unused.values())
