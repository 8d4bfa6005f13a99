"""Removes the effect of undone decisions from the last grouping."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from manifests.ledger.decisions.decision_log import Decision, FaceLocation
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import select_in_force


def restore_groups(
    group_of: Mapping[str, str],
    grouped: Collection[int],
    face_ids: Sequence[str],
    log: Sequence[Decision],
    finder: FaceFinder,
) -> np.ndarray:
    """Returns the group of each face in the last grouping, without the decisions that were undone since.

    `group_of` maps a face to its group in the last grouping, and `grouped` has the numbers of the decisions that were
    in force then. `log` are all decisions until now. The result is int64 (n,). A merge and a move join faces. If the
    merge or the move was undone, the faces that it joined are in different groups again. If a split or a move was
    undone, the faces that it took out of a person join the faces that stayed. The faces that stayed may be in several
    groups, because other splits or moves took some of them out of the person. The group of the faces that no other
    split or move took out is used (ours). If all of them were taken out, the group of the faces that were taken out
    first is used. If several groups remain, the largest group is used. A decision that a newer decision takes back
    counts as in force, because the newer decision also says where the faces belong. If both decisions are undone, the
    newer decision is removed first.
    """
    row_of = {face: row for row, face in enumerate(face_ids)}
    names = [group_of.get(face, face) for face in face_ids]
    groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    in_force = {one.number for one in select_in_force(log)}
    undone = [one for one in log if one.number in grouped and one.number not in in_force]
    if not undone:
        return groups

    def find_rows(part: Iterable[FaceLocation]) -> list[int]:
        faces = (finder.find(place)[0] for place in part)
        return [row_of[face.representative] for face in faces if face is not None and face.representative in row_of]

    named: dict[int, list[int]] = defaultdict(list)  # row -> numbers of the splits and moves of this face
    for one in log:
        if one.number in grouped and one.kind in ("split", "move"):
            for row in find_rows(one.parts[0]):
                named[row].append(one.number)
    for one in reversed(undone):
        parts = [find_rows(part) for part in one.parts]
        if one.kind in ("merge", "move"):
            _part_sides(groups, parts if one.kind == "merge" else parts[:2])
        if one.kind in ("split", "move") and parts[0] and parts[-1]:
            left = [_find_leaving(named[row], one.number, in_force) for row in parts[-1]]
            staying = [row for row, number in zip(parts[-1], left, strict=True) if number == min(left)]
            ((largest, _),) = Counter(groups[staying].tolist()).most_common(1)
            groups[parts[0]] = largest
    return groups


def _find_leaving(numbers: Sequence[int], undone: int, in_force: Collection[int]) -> float:
    """Returns the number of the last decision before `undone` with which a face left its person, or 0 if it did not
    leave.

    `undone` is the number of the decision that divided the person. `numbers` are the numbers of the splits and moves
    that name the face. The result is infinite if one of the numbers is greater than `undone` and belongs to a decision
    in force.
    """
    if any(number > undone and number in in_force for number in numbers):
        return math.inf
    return max((number for number in numbers if number < undone), default=0)


def _part_sides(groups: np.ndarray, sides: Sequence[Sequence[int]]) -> None:
    """Gives each side of a merge or move its own group, except the largest side. Changes `groups`, int64 (n,)."""
    for group in {int(groups[row]) for side in sides for row in side}:
        own = [[row for row in side if groups[row] == group] for side in sides]
        for side in sorted(filter(None, own), key=lambda side: (-len(side), side))[1:]:
            groups[side] = groups.max() + 1
