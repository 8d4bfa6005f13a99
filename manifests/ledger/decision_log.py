"""Reads the user's decisions from the ledger, and finds the faces of a decision in today's dataset.

A decision names a face by the hash of its photo and a box. A later detection may move the box of a face a little. The
face of a decision is therefore the photo's face whose box today has the largest overlap with the recorded box. If the
intersection over union of these two boxes is below 0.5, today's dataset does not have the face of the decision. The
module curate/people/constraints/links.py derives the consequences of the decisions.

A decision of the kind consent names photos, and no faces. The module curate/photos/consent.py applies these decisions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Face

DROPPED_BY_DECISION = "decided"  # The reason in the row of a face that a decision dropped.
# Largest length of a person's name, and of the reason of a drop, in characters (ours). Most file systems allow names of
# 255 bytes.
MAX_NAME = 255
MIN_OVERLAP = 0.5  # Least intersection over union of a recorded box and today's box (ours; usual for detectors).
# These kinds have one list of lists, named `sides`, with a list for each person.
SIDED = ("merge", "together", "apart")
CONSENT_KIND = "consent"  # Decisions of this kind have one list of photo ids, named `photos`.
# A newer decision can take back these effects of a decision on a face. A move has two effects: its faces become one
# person with other faces, and are no longer one person with the faces that they leave. Each other kind has at most one
# effect.
ONE_PERSON, TWO_PEOPLE, DROP = EFFECTS = ("one person", "two people", "drop")
_EFFECT_OF = {"merge": ONE_PERSON, "lock": ONE_PERSON, "split": TWO_PEOPLE, "apart": TWO_PEOPLE, "drop": DROP}
# Maps each kind of decision to the names of its lists of faces. For merge, together, apart, consent and undo, the tuple
# is empty.
PARTS = {
    "merge": (),
    "together": (),
    "apart": (),
    "split": ("faces", "rest"),
    "move": ("faces", "to", "rest"),
    "drop": ("faces",),
    "accept": ("faces",),
    "rename": ("faces",),
    "lock": ("faces",),
    "assign": ("faces",),
    "prefer": ("faces", "rest"),
    CONSENT_KIND: (),
    "undo": (),
}


@dataclass(frozen=True)
class FaceLocation:
    """The place of a face: a photo and a box.

    A decision about a person names a few faces of the person, the witnesses. If the id of the person changes later,
    the witnesses still show which person the decision means.
    """

    photo_id: str
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in photo pixels
    witness: bool = False


# A place is the photo and the box of a face. A FaceLocation is a place, and also says whether the face is a witness.
# The place of a photo has an empty box.
Place = tuple[str, tuple[float, ...]]


@dataclass(frozen=True)
class TakenBack:
    """An effect that an older decision no longer has on some of its faces, because a newer decision says otherwise."""

    number: int  # Number of the older decision.
    faces: tuple[FaceLocation, ...]  # The faces on which the older decision loses the effect.
    effect: str  # ONE_PERSON, TWO_PEOPLE or DROP
    # Without others, the older decision has no effect on `faces`. With others, the effect is TWO_PEOPLE: the older
    # decision does not separate `faces` from `others` any more, and still separates `faces` from other faces.
    others: tuple[FaceLocation, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A decision with its lists of faces, in the order of PARTS. For a kind in SIDED, each list is one person.

    `name` is the name of a rename, the split of an assign, the reason of a drop, or the consent: yes, no or withdrawn.
    `takes_back` are effects of older decisions that this decision contradicts. If this decision is undone, the older
    decisions have these effects again.
    """

    number: int
    kind: str
    parts: tuple[tuple[FaceLocation, ...], ...] = ()
    name: str | None = None
    undoes: int | None = None
    photos: tuple[str, ...] = ()  # Sorted ids of photos. Only decisions of the kind consent have photos.
    takes_back: tuple[TakenBack, ...] = ()

    @cached_property
    def places(self) -> frozenset[Place]:
        """The places of all faces and photos of the decision."""
        return frozenset(
            [*((face.photo_id, face.box) for part in self.parts for face in part), *((one, ()) for one in self.photos)]
        )


def read_decisions(ledger: Ledger) -> list[Decision]:
    """Returns all decisions of the ledger, ordered from the oldest to the newest."""
    return [parse_decision(row) for row in ledger.read_rows(DecisionRow)]


def parse_decision(row: DecisionRow) -> Decision:
    """Converts a row of the table `decisions` to a decision."""
    lists = json.loads(row.faces)
    photos = tuple(lists["photos"]) if row.kind == CONSENT_KIND else ()
    taken_back = tuple(
        TakenBack(one["number"], _decode_part(one["faces"]), one["effect"], _decode_part(one.get("others", [])))
        for one in lists.get("takes_back", [])
    )
    return Decision(row.decision_id, row.kind, decode_faces(row.kind, lists), row.name, row.undoes, photos, taken_back)


def decode_faces(kind: str, lists: Mapping[str, list]) -> tuple[tuple[FaceLocation, ...], ...]:
    """Returns the lists of faces that `encode_faces` wrote for a decision of this kind.

    A list that the JSON does not contain is returned empty.
    """
    parts = lists["sides"] if kind in SIDED else [lists.get(part, []) for part in PARTS[kind]]
    return tuple(map(_decode_part, parts))


def _decode_part(part: Iterable[Mapping[str, Any]]) -> tuple[FaceLocation, ...]:
    return tuple(FaceLocation(face["photo"], tuple(face["box"]), bool(face.get("witness", False))) for face in part)


def _encode_part(part: Iterable[FaceLocation]) -> list[dict[str, Any]]:
    return [{"photo": f.photo_id, "box": list(f.box), **({"witness": True} if f.witness else {})} for f in part]


def encode_faces(decision: Decision) -> dict[str, list]:
    """Returns a decision's faces or photos in the JSON form of the column `faces` and of a decisions file."""
    if decision.kind == CONSENT_KIND:
        return {"photos": list(decision.photos)}
    lists = [_encode_part(part) for part in decision.parts]
    encoded: dict[str, list] = (
        {"sides": lists} if decision.kind in SIDED else dict(zip(PARTS[decision.kind], lists, strict=True))
    )
    if decision.takes_back:
        encoded["takes_back"] = [
            {"number": one.number, "faces": _encode_part(one.faces), "effect": one.effect}
            | ({"others": _encode_part(one.others)} if one.others else {})
            for one in decision.takes_back
        ]
    return encoded


def change_locations(decision: Decision, change: Callable[[FaceLocation], FaceLocation | None]) -> Decision:
    """Returns the decision with `change(location)` in place of each location.

    A location for which `change` returns None is left out.
    """

    def change_part(part: Iterable[FaceLocation]) -> tuple[FaceLocation, ...]:
        return tuple(face for face in map(change, part) if face is not None)

    taken_back = [
        (one, replace(one, faces=change_part(one.faces), others=change_part(one.others))) for one in decision.takes_back
    ]
    return replace(
        decision,
        parts=tuple(map(change_part, decision.parts)),
        takes_back=tuple(new for old, new in taken_back if new.faces and bool(new.others) == bool(old.others)),
    )


def select_active(decisions: Iterable[Decision]) -> list[Decision]:
    """Returns the decisions that are not undone, ordered from the oldest to the newest. Undos are not returned.

    Effects that a newer decision takes back are left out: a returned decision has only the faces on which it still has
    an effect. A decision can become several decisions with one number: a move can keep one of its two effects on some
    faces, and faces can stay apart from some faces only.
    """
    taken: dict[int, list[TakenBack]] = defaultdict(list)
    active: list[Decision] = []
    for decision in reversed(select_in_force(decisions)):
        active += reversed(_narrow(decision, taken[decision.number]) if decision.number in taken else [decision])
        for one in decision.takes_back:
            taken[one.number].append(one)
    return active[::-1]


def _narrow(decision: Decision, taken: Sequence[TakenBack]) -> list[Decision]:
    """Returns the decision without the effects `taken`, or [] if no effect is left."""

    def keep(part: Iterable[FaceLocation], effect: str) -> tuple[FaceLocation, ...]:
        return _leave_out(part, [at for one in taken if one.effect == effect and not one.others for at in one.faces])

    if decision.kind == "move":
        faces, to, rest = decision.parts
        joined = replace(decision, parts=(keep(faces, ONE_PERSON), keep(to, ONE_PERSON), ()))
        parted = replace(decision, kind="split", parts=(keep(faces, TWO_PEOPLE), keep(rest, TWO_PEOPLE)))
        has_effect = len(joined.parts[0]) > 1 or all(joined.parts[:2])
        return [*_join_again(parted, taken), *([joined] if has_effect else [])]
    if decision.kind not in _EFFECT_OF:
        return [decision]
    effect = _EFFECT_OF[decision.kind]
    narrowed = replace(decision, parts=tuple(keep(part, effect) for part in decision.parts))
    if effect == TWO_PEOPLE:
        return _join_again(narrowed, taken)
    is_empty = sum(map(bool, narrowed.parts)) < 2 if decision.kind in SIDED else not narrowed.parts[0]
    return [] if is_empty else [narrowed]


def _join_again(decision: Decision, taken: Sequence[TakenBack]) -> list[Decision]:
    """Returns decisions that separate the same faces as `decision`, a split or apart, except the faces of each item of
    `taken` from the others of the item.
    """
    pieces = [decision]
    for one in taken:
        if one.others:
            pieces = [piece for whole in pieces for piece in _cut(whole, one)]
    return [piece for piece in pieces if sum(map(bool, piece.parts)) > 1]


def _cut(decision: Decision, taken: TakenBack) -> list[Decision]:
    """Returns `decision` without the faces of `taken`, and a decision that separates only these faces, but not from the
    others of `taken`.
    """
    without = tuple(_leave_out(part, taken.faces) for part in decision.parts)
    only = tuple(_leave_out(part, left) for part, left in zip(decision.parts, without, strict=True))
    if not any(only):
        return [decision]
    against = tuple(own or _leave_out(part, taken.others) for part, own in zip(decision.parts, only, strict=True))
    return [replace(decision, parts=without), replace(decision, parts=against)]


def _leave_out(part: Iterable[FaceLocation], faces: Iterable[FaceLocation]) -> tuple[FaceLocation, ...]:
    """Returns the faces of `part` whose places are not the places of `faces`."""
    places = {(face.photo_id, face.box) for face in faces}
    return tuple(face for face in part if (face.photo_id, face.box) not in places)


def select_in_force(decisions: Iterable[Decision]) -> list[Decision]:
    """Returns the decisions that are not undone, as they were recorded, ordered from the oldest to the newest.

    Undos are not returned.
    """
    undone: set[int] = set()
    active = []
    # from the newest to the oldest, because a later undo can cancel an earlier undo
    for decision in sorted(decisions, key=lambda decision: -decision.number):
        if decision.number in undone:
            continue
        if decision.kind == "undo":
            undone.add(int(decision.undoes or 0))
        else:
            active.append(decision)
    return active[::-1]


def find_undos(decisions: Iterable[Decision]) -> dict[int, int]:
    """Returns a dict that maps the number of an undone decision to the number of the undo."""
    undos: dict[int, int] = {}
    for decision in sorted(decisions, key=lambda decision: -decision.number):
        if decision.kind == "undo" and decision.number not in undos:
            undos[int(decision.undoes or 0)] = decision.number
    return undos


def find_takers(decisions: Sequence[Decision]) -> dict[int, list[int]]:
    """Returns a dict that maps the number of a decision without effect to the numbers of the decisions that ended it.

    A decision is without effect if newer decisions take all of its effects back. Undone decisions are not in the dict.
    """
    in_force = select_in_force(decisions)
    active = {one.number for one in select_active(in_force)}
    takers: dict[int, set[int]] = defaultdict(set)
    for one in in_force:
        for taken in one.takes_back:
            if taken.number not in active:
                takers[taken.number].add(one.number)
    return {number: sorted(own) for number, own in takers.items()}


def resolve_undos(decisions: Iterable[Decision], log: Iterable[Decision]) -> list[Decision]:
    """Returns `decisions` with each undo replaced by the decision that the undo takes back or restores.

    `log` are all recorded decisions. An undo stays as it is if a purge removed its decision.
    """
    by_number = {one.number: one for one in log}
    resolved = []
    for decision in decisions:
        while decision.kind == "undo" and decision.undoes in by_number:
            decision = by_number[decision.undoes]
        resolved.append(decision)
    return resolved


def find_decided_consent(decisions: Iterable[Decision]) -> dict[str, str]:
    """Returns a dict that maps each photo to its consent in the newest decision in force: yes, no or withdrawn.

    The dict leaves out the photos that no decision in force names.
    """
    return {
        photo: str(decision.name)
        for decision in select_active(decisions)
        if decision.kind == CONSENT_KIND
        for photo in decision.photos
    }


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
