"""Selects the decisions that are in force. A newer decision can take back an older decision, or a part of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from manifests.ledger.decisions.decision_log import (
    CONSENT_KIND,
    DROP,
    ONE_PERSON,
    SIDED,
    TWO_PEOPLE,
    Decision,
    FaceLocation,
    TakenBack,
)

_EFFECT_OF = {"merge": ONE_PERSON, "lock": ONE_PERSON, "split": TWO_PEOPLE, "apart": TWO_PEOPLE, "drop": DROP}


def select_active(decisions: Iterable[Decision]) -> list[Decision]:
    """Returns the decisions that are in force, from the oldest to the newest, without undos.

    A returned decision has only the faces on which it still has an effect. One decision can become several decisions
    with the same number. For example, a move may keep only one of its two effects on some faces.
    """
    taken: dict[int, list[TakenBack]] = defaultdict(list)
    active: list[Decision] = []
    for decision in reversed(select_in_force(decisions)):
        active += reversed(_narrow(decision, taken[decision.number]) if decision.number in taken else [decision])
        for one in decision.takes_back:
            taken[one.number].append(one)
    return active[::-1]


def _narrow(decision: Decision, taken: Sequence[TakenBack]) -> list[Decision]:
    """Returns the decisions that remain of `decision` without the effects `taken`, or [] if no effect is left."""

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
    """Returns decisions that together separate the same faces as `decision`, which is a split or an apart.

    The returned decisions do not separate the `faces` of an item of `taken` from the `others` of this item.
    """
    pieces = [decision]
    for one in taken:
        if one.others:
            pieces = [piece for whole in pieces for piece in _cut(whole, one)]
    return [piece for piece in pieces if sum(map(bool, piece.parts)) > 1]


def _cut(decision: Decision, taken: TakenBack) -> list[Decision]:
    """Returns `decision` without the faces of `taken`, and a decision for each part that contains such faces.

    The decision for a part separates these faces from the other parts, but not from the `others` of `taken`.
    """
    parts, pieces = list(decision.parts), []
    for place, part in enumerate(decision.parts):
        parts[place] = _leave_out(part, taken.faces)
        if only := _leave_out(part, parts[place]):
            against = [_leave_out(other, taken.others) for other in parts]
            against[place] = only
            pieces.append(replace(decision, parts=tuple(against)))
    return [replace(decision, parts=tuple(parts)), *pieces]


def _leave_out(part: Iterable[FaceLocation], faces: Iterable[FaceLocation]) -> tuple[FaceLocation, ...]:
    """Returns the faces of `part` whose places are not the places of `faces`."""
    places = {(face.photo_id, face.box) for face in faces}
    return tuple(face for face in part if (face.photo_id, face.box) not in places)


def select_in_force(decisions: Iterable[Decision]) -> list[Decision]:
    """Returns the recorded decisions that are not undone, from the oldest to the newest, without undos."""
    undone: set[int] = set()
    active = []
    # the newest decision comes first, because a later undo can take back an earlier undo
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
    """Returns a dict that maps the number of a decision to the numbers of the decisions that took its effects back.

    The dict has only decisions that lost all their effects in this way. The dict has no undone decisions.
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
    """Returns `decisions`, with each undo replaced by the decision that the undo takes back or restores.

    `log` are all recorded decisions. If a purge removed the decision that an undo names, the undo stays in the list.
    """
    by_number = {one.number: one for one in log}
    resolved = []
    for decision in decisions:
        while decision.kind == "undo" and decision.undoes in by_number:
            decision = by_number[decision.undoes]
        resolved.append(decision)
    return resolved


def find_decided_consent(decisions: Iterable[Decision]) -> dict[str, str]:
    """Returns a dict that maps a photo to the consent (yes, no or withdrawn) in the newest decision about the photo.

    Only decisions in force count. Photos without such a decision are not in the dict.
    """
    return {
        photo: str(decision.name)
        for decision in select_active(decisions)
        if decision.kind == CONSENT_KIND
        for photo in decision.photos
    }
