"""Describes which decisions contradict each other.

The user reads the message. A newer decision uses the other facts to take back older decisions that contradict it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import Decision

# A link has the rows of two faces, and the number of the decision that makes the two faces one person. The number 0
# stands for a label.
Link = tuple[int, int, int]
_UNDO = "Take one of the decisions back with `likeness decide DATASET undo NUMBER`."


@dataclass(frozen=True)
class Conflict:
    """A decision that separates faces which other decisions make one person. All faces are ids."""

    number: int  # The decision that separates `leaving` from `staying`.
    newest: int  # The newest of the decisions that contradict each other.
    leaving: frozenset[str]  # Faces of one side. Other decisions join them with `staying`.
    staying: frozenset[str]  # Faces of the other side. Other decisions join them with `leaving`.
    others_leave: bool  # Whether the side of `leaving` also has other faces.
    others_stay: bool  # Whether the side of `staying` also has other faces.


class Contradiction(BadInput):
    """Decisions contradict each other. The message describes the first contradiction.

    In the first contradiction, the decision `separating` says that two faces are two people. The decisions `joining`
    and the labels `labels` say that the two faces are one person. `joined` has the faces that each decision makes one
    person: pairs of the number of the decision and the ids of the faces. The number 0 stands for a label.
    """

    def __init__(
        self,
        separating: Decision,
        joining: Sequence[Decision],
        labels: Sequence[str],
        faces: tuple[str, str],
        conflicts: Sequence[Conflict],
        joined: Sequence[tuple[int, frozenset[str]]],
    ) -> None:
        causes = [f"decision {one.number} ({one.kind})" for one in joining] + [f"label {label}" for label in labels]
        super().__init__(
            f"Contradiction: {' and '.join(causes)} {'says' if len(causes) == 1 else 'say'} that faces "
            f"{faces[0][:12]} and {faces[1][:12]} are one person, but decision {separating.number} "
            f"({separating.kind}) says that they are two people. {_UNDO}"
        )
        self.separating, self.joining, self.labels = separating, joining, labels
        self.conflicts, self.joined = conflicts, joined


def find_chain(links: Sequence[Link], start: int, end: int) -> list[Link]:
    """Returns the shortest chain of links from the row `start` to the row `end`. A chain from `start` to `end` must
    exist.
    """
    near: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for a, b, number in links:
        near[a].append((b, number))
        near[b].append((a, number))
    came_from: dict[int, tuple[int, int]] = {start: (start, 0)}
    queue = deque([start])
    while queue and end not in came_from:
        here = queue.popleft()
        for row, number in near[here]:
            if row not in came_from:
                came_from[row] = (here, number)
                queue.append(row)
    chain = []
    while end != start:
        before, number = came_from[end]
        chain.append((before, end, number))
        end = before
    return chain[::-1]


def make_contradiction(
    conflicts: Sequence[Conflict],
    chain: Sequence[Link],
    links: Sequence[Link],
    log: Sequence[Decision],
    labels: Mapping[int, str],
    face_ids: Sequence[str],
) -> Contradiction:
    """Returns the error for `conflicts`. The links `chain` join two faces that the first conflict separates.

    `links` are all links, `log` are all decisions, and `labels` maps a row to its label.
    """
    by_number = {decision.number: decision for decision in log}
    return Contradiction(
        by_number[conflicts[0].number],
        [by_number[step] for step in sorted({step for *_, step in chain} - {0})],
        sorted({labels[row] for row, _, step in chain if step == 0}),
        (face_ids[chain[0][0]], face_ids[chain[-1][1]]),
        conflicts,
        list_joined(links, face_ids),
    )


def make_conflict(
    number: int,
    newest: int,
    leaving: Sequence[int],
    staying: Sequence[int],
    is_shared: np.ndarray,
    face_ids: Sequence[str],
) -> Conflict:
    """Returns the conflict of decision `number`, which separates the rows `leaving` from the rows `staying`.

    `is_shared` marks the rows that other decisions make one person, bool (n,).
    """
    sides = [[face_ids[row] for row in side if is_shared[row]] for side in (leaving, staying)]
    others = [len(own) < len(side) for own, side in zip(sides, (leaving, staying), strict=True)]
    return Conflict(number, newest, frozenset(sides[0]), frozenset(sides[1]), *others)


def list_joined(links: Sequence[Link], face_ids: Sequence[str]) -> list[tuple[int, frozenset[str]]]:
    """Returns (number, faces) for each decision that joins faces, and (0, faces) for each link of a label."""
    joined: dict[int, set[str]] = defaultdict(set)
    for one, other, number in links:
        joined[number] |= {face_ids[one], face_ids[other]}
    labels = [(0, frozenset((face_ids[one], face_ids[other]))) for one, other, number in links if number == 0]
    return [(number, frozenset(faces)) for number, faces in joined.items() if number] + labels
