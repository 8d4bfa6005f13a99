"""Takes decisions that were undone out of the last grouping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from manifests.ledger.decision_log import Decision, FaceFinder, select_in_force


def restore_groups(
    group_of: Mapping[str, str],
    grouped: Collection[int],
    face_ids: Sequence[str],
    log: Sequence[Decision],
    finder: FaceFinder,
) -> np.ndarray:
    """Returns the group of each face in the last grouping, without the decisions that were undone since.

    `group_of` maps a face to its group in the last grouping, and `grouped` has the numbers of the decisions that were
    in force then. `log` are all decisions until now. The result is int64 (n,). If a merge or a move was undone, its
    sides are different groups again. If a split or a move was undone, its faces join the largest group of the other
    faces again. A decision that a newer decision takes back counts as in force, because the newer decision also says
    where the faces belong; if both are undone, both are taken out, the newer decision first.
    """
    row_of = {face: row for row, face in enumerate(face_ids)}
    names = [group_of.get(face, face) for face in face_ids]
    groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    in_force = {one.number for one in select_in_force(log)}
    for one in reversed([one for one in log if one.number in grouped and one.number not in in_force]):
        found = [[finder.find(place)[0] for place in part] for part in one.parts]
        parts = [
            [row_of[face.representative] for face in part if face is not None and face.representative in row_of]
            for part in found
        ]
        if one.kind in ("merge", "move"):
            _part_sides(groups, parts if one.kind == "merge" else parts[:2])
        if one.kind in ("split", "move") and parts[0] and parts[-1]:
            ((largest, _),) = Counter(groups[parts[-1]].tolist()).most_common(1)
            groups[parts[0]] = largest
    return groups


def _part_sides(groups: np.ndarray, sides: Sequence[Sequence[int]]) -> None:
    """Gives each side of a merge a group of its own, except the largest side. Changes `groups`, int64 (n,)."""
    for group in {int(groups[row]) for side in sides for row in side}:
        own = [[row for row in side if groups[row] == group] for side in sides]
        for side in sorted(filter(None, own), key=lambda side: (-len(side), side))[1:]:
            groups[side] = groups.max() + 1
