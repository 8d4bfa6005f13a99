"""Reads the user's decisions from the ledger, and turns the lists of faces in a decision into JSON and back.

Decisions of the kind consent name photos instead of faces. The module curate/photos/consent.py applies these decisions.
The module curate/people/constraints/links.py derives the consequences of the other decisions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow

DROPPED_BY_DECISION = "decided"  # The reason in the row of a face that a decision dropped.
# Largest number of characters (ours) in a person's name, and in the reason of a drop. Most file systems allow names of
# 255 bytes.
MAX_NAME = 255
# Decisions of these kinds have a list `sides`, which contains a list of faces for each person.
SIDED = ("merge", "together", "apart")
CONSENT_KIND = "consent"  # Decisions of this kind have one list of photo ids, named `photos`.
# The effects that a decision can have on a face, and that a newer decision can take back. A move has two effects: its
# faces become one person with other faces, and are no longer one person with the faces that they leave. A decision of
# another kind has at most one effect.
ONE_PERSON, TWO_PEOPLE, DROP = EFFECTS = ("one person", "two people", "drop")
# Maps each kind of decision to the names of its lists of faces. The kinds in SIDED, the kind `consent` and the kind
# `undo` have no such lists.
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

    A decision about a person names a few of the person's faces, which are called witnesses. If the id of the person
    changes later, the witnesses still show which person the decision means.
    """

    photo_id: str
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in photo pixels
    witness: bool = False


# The photo and the box of a face, without the field `witness`. For a whole photo, the box is ().
Place = tuple[str, tuple[float, ...]]


@dataclass(frozen=True)
class TakenBack:
    """An effect that an older decision no longer has on some of its faces, because a newer decision took the effect
    back."""

    number: int  # Number of the older decision.
    faces: tuple[FaceLocation, ...]  # The faces on which the older decision loses the effect.
    effect: str  # ONE_PERSON, TWO_PEOPLE or DROP.
    # If `others` is empty, the older decision loses the effect on `faces` completely. If `others` has faces, the effect
    # is TWO_PEOPLE. The older decision then no longer separates `faces` from `others`, but still separates `faces` from
    # all other faces.
    others: tuple[FaceLocation, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A decision of the user.

    `parts` are the lists of faces in the order of PARTS. For a kind in SIDED, `parts` has a list for each person.

    `name` is the new name for the kind rename, the split for assign, the reason for drop, and yes, no or withdrawn for
    consent. `takes_back` are effects of older decisions that this decision ends. If this decision is undone, the older
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

    For a list that is missing in `lists`, an empty list is returned.
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
