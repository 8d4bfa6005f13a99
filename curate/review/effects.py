"""Shows the effect of a decision in the view at once, before the faces are grouped again.

The effect is what the decision says, for example that two people are one. Grouping the faces again can move further
faces. A person who is divided or merged keeps its id by the rule of curate/people/identities.py: the larger part keeps
the id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from curate.people.identities import make_id
from curate.review.view import Change, View
from manifests.ledger.decision_log import DROPPED_BY_DECISION, Decision, FaceLocation


def show_decision(view: View, decision: Decision) -> Change:
    """Changes the view as the decision says. Returns the change, which `View.take_back` can take back."""
    change = view.start_change()
    effect = _EFFECTS.get(decision.kind)
    if effect is not None:
        effect(view, decision)
    view.end_change()
    return change


def _merge(view: View, decision: Decision) -> None:
    people = [person for side in decision.parts if (person := _find_person(view, side)) is not None]
    _join(view, people)


def _split(view: View, decision: Decision) -> None:
    rest = {view.lookup.get_identity(face) for face in _find_faces(view, decision.parts[1])}
    leaving = [face for face in _find_faces(view, decision.parts[0]) if view.lookup.get_identity(face) in rest]
    by_person: dict[str, list[str]] = {}
    for face in leaving:
        by_person.setdefault(str(view.lookup.get_identity(face)), []).append(face)
    for person, faces in sorted(by_person.items()):
        separate_faces(view, person, faces)


def _move(view: View, decision: Decision) -> None:
    target = _find_person(view, decision.parts[1])
    if target is not None:
        for face in _find_faces(view, decision.parts[0]):
            view.put_member(face, target)


def _drop(view: View, decision: Decision) -> None:
    for face_id in _find_faces(view, decision.parts[0]):
        for one in (face_id, *view.copies.get(face_id, ())):
            row = view.faces[one]
            view.put_face(replace(row, status="dropped", reason=DROPPED_BY_DECISION, duplicate_of=None))
        view.put_member(face_id, None)


def _rename(view: View, decision: Decision) -> None:
    person = _find_person(view, decision.parts[0])
    if person is not None:
        view.put_person(replace(view.people[person], name=decision.name, name_number=decision.number))


def _lock(view: View, decision: Decision) -> None:
    people = {view.lookup.get_identity(face) for face in _find_faces(view, decision.parts[0])} - {None}
    person = _join(view, [str(one) for one in people])
    if person is not None:
        view.put_person(replace(view.people[person], locked=True, doubtful=False))


_EFFECTS: dict[str, Callable[[View, Decision], None]] = {
    "merge": _merge,
    "split": _split,
    "move": _move,
    "drop": _drop,
    "rename": _rename,
    "lock": _lock,
}


def separate_faces(view: View, person: str, faces: Sequence[str]) -> None:
    """Makes a new person of some faces of a person. The larger part keeps the id of the person."""
    leaving = set(faces)
    staying = [face for face in view.lookup.get_members(person) if face not in leaving]
    if not staying:
        return
    # on equality, the part with the smallest face keeps the id
    leaving_keeps = (-len(leaving), min(leaving)) < (-len(staying), min(staying))
    moving = staying if leaving_keeps else sorted(leaving)
    new = make_id(view.key, min(moving), view.people)
    view.put_person(replace(view.people[person], identity_id=new, name=None, name_number=0, locked=False))
    for face in moving:
        view.put_member(face, new)
    if leaving_keeps:  # the name and the lock belong to the faces that stay
        old = view.people[person]
        view.put_person(replace(old, identity_id=new))
        view.put_person(replace(old, name=None, name_number=0, locked=False))


def _join(view: View, people: Iterable[str]) -> str | None:
    """Makes one person of several people, and returns its id. The person with most faces keeps its id."""
    ordered = sorted(set(people), key=lambda person: (-len(view.lookup.get_members(person)), person))
    if not ordered:
        return None
    rows = [view.people[person] for person in ordered]
    named = max(rows, key=lambda row: (row.name is not None, row.name_number))
    view.put_person(
        replace(rows[0], name=named.name, name_number=named.name_number, locked=any(row.locked for row in rows))
    )
    for person in ordered[1:]:
        for face in view.lookup.get_members(person):
            view.put_member(face, ordered[0])
    return ordered[0]


def _find_faces(view: View, locations: Sequence[FaceLocation]) -> list[str]:
    """Returns the representatives that are at some locations today, and that belong to a person."""
    faces = dict.fromkeys(view.lookup.find_today(location) for location in locations)
    return [face for face in faces if face is not None and view.lookup.get_identity(face) is not None]


def _find_person(view: View, locations: Sequence[FaceLocation]) -> str | None:
    """Returns the person to whom most of the faces belong. Faces that are named directly decide before witnesses."""
    direct = [location for location in locations if not location.witness]
    faces = _find_faces(view, direct) or _find_faces(view, locations)
    votes = Counter(str(view.lookup.get_identity(face)) for face in faces)
    return min(votes, key=lambda person: (-votes[person], person)) if votes else None
