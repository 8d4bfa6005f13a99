"""Applies the decisions of the kind `together`, which put people into one split without merging them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from curate.people.clustering.components import label_components
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.records import Face, Membership


def find_people_together(
    decisions: Iterable[Decision], faces: Sequence[Face], memberships: Sequence[Membership]
) -> list[tuple[str, ...]]:
    """Returns the identities of the sides of each active decision `together`.

    A side of a decision means the person to whom most faces of the side belong now. A side whose faces belong to no
    person is left out.
    """
    finder, owner = FaceFinder(faces), {row.face_id: row.identity_id for row in memberships}
    people = []
    for decision in select_active(decisions):
        if decision.kind != "together":
            continue
        sides = []
        for side in decision.parts:
            found = (finder.find(location)[0] for location in side)
            votes = Counter(owner[face.representative] for face in found if face and face.representative in owner)
            if votes:
                sides.append(min(votes, key=lambda person: (-votes[person], person)))
        people.append(tuple(sides))
    return people


def move_together(
    split_of: Mapping[str, str], owner: Mapping[str, str], together: Sequence[Sequence[str]], locked: Collection[str]
) -> dict[str, str]:
    """Returns face_id -> split, with the people of each decision in one split.

    `split_of` and `owner` map each face with an identity to its split and its identity. `locked` are faces of frozen
    sets, and people with locked faces never move. If a decision names a person of a frozen set, the other people of the
    decision go to the split of the frozen person. If a decision names no person of a frozen set, all its people go to
    the split of the person with the most faces.
    """
    people = sorted({person for sides in together for person in sides})
    if not people:
        return dict(split_of)
    split_of_person = {owner[face]: split for face, split in split_of.items()}
    size = Counter(owner[face] for face in split_of)
    staying = {owner[face] for face in locked if face in owner}
    number = {person: i for i, person in enumerate(people)}
    links = [(number[one], number[other]) for sides in together for one, other in pairwise(sides)]
    labels = label_components(len(people), np.array(links, np.int64).reshape(-1, 2)).tolist()
    new_split: dict[int, str] = {}
    for person in sorted(people, key=lambda person: (person not in staying, -size[person], person)):
        new_split.setdefault(labels[number[person]], split_of_person[person])
    moved = {person: new_split[labels[number[person]]] for person in people if person not in staying}
    return {face: moved.get(owner[face], split) for face, split in split_of.items()}
