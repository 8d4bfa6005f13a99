"""Applies the decisions of the kind `assign`, in which the user chooses the split of a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import select_active


def find_assigned_splits(
    decisions: Iterable[Decision], finder: FaceFinder, identity_of: Mapping[str, str]
) -> dict[str, str]:
    """Returns the split of each person whose split a decision chooses. A later decision takes precedence.

    A decision means the person to whom most of its faces belong now. `identity_of` maps a face to its identity.
    """
    splits: dict[str, str] = {}
    for decision in select_active(decisions):
        if decision.kind != "assign":
            continue
        found = (finder.find(location)[0] for location in decision.parts[0])
        votes = Counter(
            identity_of[face.representative] for face in found if face and face.representative in identity_of
        )
        if votes:
            splits[min(votes, key=lambda person: (-votes[person], person))] = str(decision.name)
    return splits
