"""Makes sentences that explain which decisions contradict each other."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from manifests.ledger.decision_log import Decision

# A link has the rows of two faces, and the number of the decision that makes the two faces one person. The number 0
# stands for a label.
Link = tuple[int, int, int]
_UNDO = "Take one of the decisions back with `likeness decide DATASET undo NUMBER`."


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


def describe_contradiction(
    number: int, active: Sequence[Decision], chain: Sequence[Link], labels: Mapping[int, str], face_ids: Sequence[str]
) -> str:
    """Returns a sentence for the user: `chain` joins two faces, but decision `number` separates the two faces."""
    kinds = {decision.number: decision.kind for decision in active}
    one, other = face_ids[chain[0][0]], face_ids[chain[-1][1]]
    causes = [f"decision {step} ({kinds[step]})" for step in sorted({step for *_, step in chain} - {0})]
    causes += [f"label {label}" for label in sorted({labels[row] for row, _, step in chain if step == 0})]
    verb = "says" if len(causes) == 1 else "say"
    return (
        f"Contradiction: {' and '.join(causes)} {verb} that faces {one[:12]} and {other[:12]} are one person, but "
        f"decision {number} ({kinds[number]}) says that they are two people. {_UNDO}"
    )


def describe_empty_part(decision: Decision, active: Sequence[Decision], later: int, faces: Sequence[str]) -> str:
    """Returns a sentence for the user: `decision` gives faces to a person, but decision `later` removes all these
    faces.
    """
    kinds = {one.number: one.kind for one in active}
    examples = ", ".join(face[:12] for face in faces[:3]) + (f" and {len(faces) - 3} more" if len(faces) > 3 else "")
    return (
        f"Contradiction: decision {decision.number} ({decision.kind}) gives faces {examples} to a person, but decision "
        f"{later} ({kinds[later]}) takes all of these faces away. {_UNDO}"
    )
