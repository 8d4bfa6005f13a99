"""The log of decisions as the ledger keeps it: its rows read, and today's face for a face that a row names.

A decision names faces by photo hash and box; today's face of that photo with the largest overlap (IoU of .5 or more)
answers to it. What follows from a decision is curate's business (curate/people/links.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from manifests.ledger.records import DecisionRow, Face

DROPPED_BY_DECISION = "decided"  # of a face that was dropped by a decision
MAX_NAME = 255  # characters of a person's name: what file systems allow a folder (ours)
MIN_OVERLAP = 0.5  # of a recorded box with today's (ours, as detectors are scored)
# kind -> its lists of faces; a merge has a list of lists instead, `sides`
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
    """A face as a decision remembers it."""

    photo_id: str
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in photo pixels
    witness: bool = False


@dataclass(frozen=True)
class Decision:
    """A decision, read: the lists of faces in the order of PARTS, or the sides of a merge."""

    number: int
    kind: str
    parts: tuple[tuple[FaceLocation, ...], ...] = ()
    name: str | None = None
    undoes: int | None = None


def parse_decision(row: DecisionRow) -> Decision:
    """A row of the log as an act."""
    return Decision(row.decision_id, row.kind, decode_faces(row.kind, json.loads(row.faces)), row.name, row.undoes)


def decode_faces(kind: str, told: Mapping[str, list]) -> tuple[tuple[FaceLocation, ...], ...]:
    lists = told["sides"] if kind == "merge" else [told.get(part, []) for part in PARTS[kind]]
    return tuple(
        tuple(FaceLocation(one["photo"], tuple(one["box"]), bool(one.get("witness", False))) for one in faces)
        for faces in lists
    )


def encode_faces(act: Decision) -> dict[str, list]:
    """The faces of an act as the log and the decisions file write them."""
    lists = [
        [{"photo": f.photo_id, "box": list(f.box), **({"witness": True} if f.witness else {})} for f in faces]
        for faces in act.parts
    ]
    return {"sides": lists} if act.kind == "merge" else dict(zip(PARTS[act.kind], lists, strict=True))


def select_active(acts: Iterable[Decision]) -> list[Decision]:
    """The acts that nobody has taken back, without the undos themselves; an undo that was undone counts for nothing."""
    back: set[int] = set()
    kept = []
    for act in sorted(acts, key=lambda act: -act.number):
        if act.number in back:
            continue
        if act.kind == "undo":
            back.add(int(act.undoes or 0))
        else:
            kept.append(act)
    return kept[::-1]


def find_undos(acts: Iterable[Decision]) -> dict[int, int]:
    """number -> the undo that takes it back today."""
    by: dict[int, int] = {}
    for act in sorted(acts, key=lambda act: -act.number):
        if act.kind == "undo" and act.number not in by:
            by[int(act.undoes or 0)] = act.number
    return by


class FaceFinder:
    """Today's face for a named one."""

    def __init__(self, faces: Iterable[Face]) -> None:
        self._of_photo: dict[str, list[Face]] = defaultdict(list)
        for face in faces:
            self._of_photo[face.photo_id].append(face)

    def find(self, named: FaceLocation) -> tuple[Face | None, str]:
        """The face with the largest overlap, and ''; or the one that was dropped, or None, and why there is none."""
        found = [(measure_overlap(face.box, named.box), face) for face in self._of_photo.get(named.photo_id, ())]
        near = [(share, face) for share, face in found if share >= MIN_OVERLAP]
        if not near:
            return None, "no face lies there now" if found else "its photo is not there"
        usable = [(share, face) for share, face in near if face.status == "ok" or face.duplicate_of is not None]
        _, best = min(usable or near, key=lambda item: (-item[0], item[1].face_id))
        return best, "" if usable else f"dropped, {best.reason}"


def measure_overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum(max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def find_unused_faces(act: Decision, finder: FaceFinder) -> list[tuple[FaceLocation, str]]:
    """The faces of an act that are not in use today, each once, and why; what a drop has dropped is in place."""
    found: dict[tuple[str, tuple[float, ...]], tuple[FaceLocation, str]] = {}
    for named in (named for part in act.parts for named in part):
        face, why = finder.find(named)
        if why and not (act.kind == "drop" and face is not None and face.reason == DROPPED_BY_DECISION):
            found.setdefault((named.photo_id, named.box), (named, why))
    return list(found.values())
