"""Plans decisions that end leaks: a person moves to the split of another person, or single faces are dropped.

For two people with leaks between them, the plan lists faces until every leak has a listed face. The face with the most
leaks is listed first. If the person with fewer faces has more than MAX_MOVES faces for each listed face, the listed
faces are dropped. Otherwise, the person with fewer faces moves to the split of the person with more faces, and no face
is dropped.

As soon as a frozen set exists, people keep their splits, and only faces outside the frozen sets are dropped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from curate.people.leaks.face_line import FaceLine
from curate.people.leaks.find_leaks import Leak

# A person moves if at most MAX_MOVES faces (ours) move for each face that could be dropped instead. For example, a
# person has 40 faces, and one face looks like another person. The person keeps its split, and the face that looks like
# another person is dropped.
MAX_MOVES = 10


@dataclass
class RepairPlan:
    """The decisions that end leaks."""

    # identities of two people, the person with more faces first
    together: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # face ids


def plan_repair(
    leaks: Sequence[Leak], faces: Mapping[str, FaceLine], locked: Collection[str], with_moves: bool
) -> RepairPlan:
    """Returns the decisions that end `leaks`.

    `faces` maps face ids to the faces that were searched. Faces in `locked` are never dropped. If `with_moves` is
    false, no person changes its split. Leaks of the kinds identity and photo are left out, because `curate` ends these
    leaks when it divides the people into splits again.
    """
    plan = RepairPlan()
    size = Counter(line.person for line in faces.values() if line.copy_of is None)
    between: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for leak in leaks:
        one, other = faces[leak.one], faces[leak.other]
        ends = one.copy_of or one.face, other.copy_of or other.face
        if leak.kind == "own_reference" and ends[0] != ends[1] and ends[1] not in locked:
            plan.dropped.append(ends[1])
        elif leak.kind in ("near_duplicate", "cosine"):
            large, small = sorted((one.person, other.person), key=lambda person: (-size[person], person))
            between[large, small].append(ends if one.person == large else ends[::-1])
    for (large, small), pairs in sorted(between.items()):
        cover = _find_cover(pairs, locked)
        if with_moves and size[small] <= MAX_MOVES * len(cover):
            plan.together.append((large, small))
        else:
            plan.dropped += cover
    plan.dropped = sorted(set(plan.dropped))
    return plan


def _find_cover(pairs: Sequence[tuple[str, str]], locked: Collection[str]) -> list[str]:
    """Returns faces so that each pair contains at least one of these faces. The face in the most pairs is chosen first.

    If two faces are in equally many pairs, a face that is the second face of a pair is chosen first. Pairs of two
    locked faces are left out.
    """
    left = {pair for pair in pairs if any(face not in locked for face in pair)}
    cover = []
    while left:
        count = Counter(face for pair in left for face in pair if face not in locked)
        second = {other for _, other in left}
        best = min(count, key=lambda face: (-count[face], face not in second, face))
        cover.append(best)
        left = {pair for pair in left if best not in pair}
    return cover
