"""Lets the newest decision win: a newer decision takes back what older decisions say about the same faces.

If the user moves a face a second time, the second move contradicts the first move. The second move then takes one
effect of the first move back, only for this face: the first move no longer says to whom the face belongs. The first
move still says to whom the face does not belong. The newer decision stores what it takes back (`Decision.takes_back`).
If the newer decision is undone, the older decisions count again.

If older decisions keep faces with a person, a newer split or move of these faces takes this effect back. If older
decisions keep people apart, a newer merge, move or lock that joins the people takes this effect back. A decision never
takes back a label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate.decisions.lookup.face_lookup import parse_location
from curate.people.constraints.contradictions import Conflict, Contradiction
from curate.people.pending.people_now import Change, PeopleNow
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import (
    DROP,
    EFFECTS,
    ONE_PERSON,
    TWO_PEOPLE,
    Decision,
    FaceLocation,
    TakenBack,
)
from manifests.ledger.decisions.in_force import select_active, select_in_force

TAKING_KINDS = ("merge", "split", "move", "apart", "lock")  # the kinds of decisions that can take older decisions back


@dataclass(frozen=True)
class _Release:
    """A newer decision takes an effect of an older decision back for some faces (see TakenBack).

    The decisions are given by their numbers, and the faces by their ids.
    """

    newer: int
    older: int
    faces: frozenset[str]
    effect: str
    others: frozenset[str] = frozenset()


def take_older_back(people: PeopleNow, new: Sequence[Decision]) -> tuple[list[Decision], Change]:
    """Returns the decisions of `new`, each with what it takes back, and the change that these decisions cause.

    Raises Contradiction if a decision contradicts a label, or if the newest decision of a contradiction is not in
    `new`.
    """
    decisions = list(new)
    while True:
        try:
            return decisions, people.plan(decisions)
        except Contradiction as error:
            numbers = {one.number for one in new}
            # Splits and moves come first: after a face has left its person, other contradictions may be gone too.
            releases = [one for one in _list_leaving(error) if one.newer in numbers]
            in_force = select_in_force([*people.log, *decisions])
            releases = releases or [one for one in _list_joining(error, in_force) if one.newer in numbers]
            before, decisions = decisions, _add_releases(people, decisions, releases)
            if decisions == before:
                raise


def take_drops_back(people: PeopleNow, faces: Iterable[FaceLocation]) -> tuple[TakenBack, ...]:
    """Returns what a move of `faces` takes back. The result is () if no decision dropped one of the faces.

    The move takes back the drops. For the dropped faces, the move also takes back the effect ONE_PERSON of older
    merges, moves and locks.
    """
    log = select_in_force(people.log)
    taken: tuple[TakenBack, ...] = ()
    for face in faces:
        row, cause = people.finder.find(face)
        if row is None or not cause:
            continue
        drops = [one for one in log if one.kind == "drop" and _find_places(people, one, {row.face_id})]
        holds = [one for one in log if one.kind in ("merge", "move", "lock")] if drops else []
        for one, effect in [*((drop, DROP) for drop in drops), *((hold, ONE_PERSON) for hold in holds)]:
            places = tuple(at for at in _find_places(people, one, {row.face_id}) if not at.witness)
            taken = merge_taken([*taken, *([TakenBack(one.number, places, effect)] if places else [])])
    return taken


def parse_taken_back(request: Mapping[str, Any], number_of: Mapping[int, int]) -> tuple[TakenBack, ...]:
    """Reads the value of the key `takes_back` from a line of a decision file. Raises BadInput if this value is wrong.

    `number_of` maps the number of an earlier line in the file to its number in the log. Other numbers are left out,
    because the log can have another decision with the same number.
    """
    lines = request.get("takes_back", [])
    if not isinstance(lines, list):
        raise BadInput("takes_back is not a list. Leave takes_back out, and Likeness finds its value.")
    taken = []
    for line in lines:
        if (
            not isinstance(line, dict)
            or set(line) - {"others"} != {"number", "faces", "effect"}
            or not isinstance(line["number"], int)
            or not all(isinstance(line.get(key, []), list) for key in ("faces", "others"))
            or not all(isinstance(face, dict) for face in (*line["faces"], *line.get("others", ())))
            or line["effect"] not in EFFECTS
            or (line.get("others") and line["effect"] != TWO_PEOPLE)
        ):
            raise BadInput(
                "An item of takes_back needs the keys number, faces and effect. Leave takes_back out, and Likeness "
                "finds its value."
            )
        faces, others = (tuple(map(parse_location, line.get(key, ()))) for key in ("faces", "others"))
        if line["number"] in number_of:
            taken.append(TakenBack(number_of[line["number"]], faces, line["effect"], others))
    return tuple(taken)


def describe_taken_back(log: Sequence[Decision], new: Sequence[Decision], name: Callable[[Decision], str]) -> list[str]:
    """Returns a sentence for each older decision that `new` takes back, or that an undo in `new` brings back.

    `log` are the decisions before `new`, and `name` returns the name of a decision for the user.
    """
    if not any(one.takes_back or one.kind == "undo" for one in new):
        return []
    after = select_in_force([*log, *new])
    taken_before, taken = (
        {entry for one in decisions for entry in _list_entries(one)} for decisions in (select_in_force(log), after)
    )
    gained, lost = ({number for number, *_ in change} for change in (taken - taken_before, taken_before - taken))
    still, in_part = {one.number for one in select_active(after)}, {number for number, *_ in taken}
    sentences = []
    for one in after:
        if one.number in gained:
            sentences.append(f"{name(one)} is taken back{' in part' if one.number in still else ''}.")
        elif one.number in lost:
            sentences.append(f"{name(one)} counts again{' in part' if one.number in in_part else ''}.")
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


def _list_leaving(error: Contradiction) -> list[_Release]:
    """Returns what newer splits and moves take back, so that the faces that they move can leave."""
    releases = []
    for conflict in error.conflicts:
        if conflict.newest == conflict.number:
            releases += _find_holds(conflict, error.joined)
    return releases


def _find_holds(conflict: Conflict, joined: Sequence[tuple[int, frozenset[str]]]) -> list[_Release]:
    """Returns a release for each older decision that joins faces of `conflict.leaving` to faces of `conflict.staying`,
    directly or through other decisions.
    """
    # the decisions and labels make each set of faces one person; the leaving faces are not in the sets
    groups: list[set[str]] = []
    for _, faces in joined:
        own = set(faces - conflict.leaving)
        touching = [group for group in groups if group & own]
        groups = [group for group in groups if not group & own]
        groups.append(own.union(*touching))
    staying = set(conflict.staying).union(*(group for group in groups if group & conflict.staying))
    return [
        _Release(conflict.newest, number, faces & conflict.leaving, ONE_PERSON)
        for number, faces in joined
        if number and number < conflict.newest and faces & conflict.leaving and faces & staying
    ]


def _list_joining(error: Contradiction, in_force: Sequence[Decision]) -> list[_Release]:
    """Returns what newer merges, moves and locks take back, so that faces can be one person.

    An older decision that separates two sides keeps as much of its effect as possible. If the new person contains all
    faces of one side, the older decision has no effect any more on those faces of the other side that are in the new
    person. Otherwise, the older decision only stops separating the faces of the new person from each other. The last
    rule also applies if a decision of `in_force` has already taken such a separation of the older decision back.
    """
    in_part = {taken.number for one in in_force for taken in one.takes_back if taken.others}
    releases = []
    for one in error.conflicts:
        if one.number < one.newest:
            faces, others = one.leaving, frozenset[str]()
            if one.number in in_part or (one.others_leave and one.others_stay):
                others = one.staying
            elif one.others_stay:
                faces = one.staying
            releases.append(_Release(one.newest, one.number, faces, TWO_PEOPLE, others))
    return releases


def _add_releases(people: PeopleNow, decisions: Sequence[Decision], releases: Iterable[_Release]) -> list[Decision]:
    """Returns the decisions, each with what it takes back according to `releases`."""
    decision_of = {one.number: one for one in select_in_force([*people.log, *decisions])}
    taken: dict[int, list[TakenBack]] = defaultdict(list)
    for one in releases:
        older = decision_of.get(one.older)
        places = _find_places(people, older, one.faces) if older is not None else ()
        if older is None or not places:
            continue
        taken[one.newer].append(TakenBack(one.older, places, one.effect, _find_places(people, older, one.others)))
        # The newer decision also takes back what the older decision takes back. An undo of the older decision then
        # changes nothing for these faces.
        for earlier in older.takes_back:
            same = tuple(at for at in earlier.faces if _find_face(people, at) in one.faces)
            taken[one.newer] += [replace(earlier, faces=same)] if same else []
            same = tuple(at for at in earlier.others if _find_face(people, at) in one.faces)
            taken[one.newer] += [replace(earlier, others=same)] if same else []
    return [
        replace(one, takes_back=merge_taken([*one.takes_back, *taken[one.number]])) if one.number in taken else one
        for one in decisions
    ]


def merge_taken(taken: Iterable[TakenBack]) -> tuple[TakenBack, ...]:
    """Joins the items that have the same older decision, the same effect and the same `others`."""
    faces: dict[tuple[int, str, tuple[FaceLocation, ...]], dict[FaceLocation, None]] = {}
    for one in taken:
        faces.setdefault((one.number, one.effect, one.others), {}).update(dict.fromkeys(one.faces))
    merged = [TakenBack(number, tuple(named), effect, others) for (number, effect, others), named in faces.items()]
    return tuple(sorted(merged, key=lambda one: (one.number, one.effect)))


def _find_places(people: PeopleNow, decision: Decision, faces: Iterable[str]) -> tuple[FaceLocation, ...]:
    """Returns those locations of a decision at which the faces with these ids are now."""
    wanted = set(faces)
    return tuple(dict.fromkeys(at for part in decision.parts for at in part if _find_face(people, at) in wanted))


def _find_face(people: PeopleNow, location: FaceLocation) -> str | None:
    face, _ = people.finder.find(location)
    return None if face is None else face.representative


def _list_entries(decision: Decision) -> set[tuple[int, str, FaceLocation]]:
    return {(taken.number, taken.effect, at) for taken in decision.takes_back for at in (*taken.faces, *taken.others)}
