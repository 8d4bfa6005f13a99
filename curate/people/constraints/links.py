"""Converts the recorded decisions about people into constraints on the current faces.

A decision names a face directly or as a witness. If the user names a face by its id, the decision names the face
directly. If the user names an identity, the faces of the identity become witnesses. Witnesses show which person a
decision means, even if the identity is split or grows later.

A decision always applies to faces that it names directly. A decision no longer applies to a witness if a later split or
move names the witness directly. If the user takes a wrong face out of a merged identity, the merge therefore still
applies to the other faces. If the merge or move that brought a witness into the identity is undone, the decision no
longer applies to this witness either. Decisions that contradict each other in any other way raise Contradiction with
the numbers of the decisions. Nothing in this file reads or writes the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from curate.people.clustering.components import label_components
from curate.people.constraints.contradictions import Link, find_chain, make_conflict, make_contradiction
from curate.people.constraints.resolve_faces import MissingFace, ResolvedDecision, resolve_decisions
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import select_active, select_in_force
from manifests.ledger.records import Face

# If a decision separates a face from many faces, the clustering gets at most MAX_CANNOT_LINKS cannot-links (ours) for
# the face. After the clustering, `apply_decisions` also separates the face from all other faces of the decision.
MAX_CANNOT_LINKS = 32


@dataclass(frozen=True)
class Links:
    """The constraints that decisions and labels put on n faces. Row numbers stand for faces."""

    # pairs of faces that show one person; k faces of one person give k - 1 pairs
    must_links: tuple[tuple[int, int], ...]
    # Some pairs of faces of two people; `separations` describes all such pairs.
    cannot_links: tuple[tuple[int, int], ...]
    block: np.ndarray  # int64 (n,): number of the block of each row; rows that `must_links` connects are in one block.
    # Each item has two sets of rows. No row of the first set may be in a group with a row of the second set.
    separations: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    # The locked blocks and the blocks of labels. No two exclusive blocks may be in one group.
    exclusive: frozenset[int]
    locked: frozenset[int]  # Numbers of the blocks that a decision locked.
    review_rows: frozenset[int]  # Rows whose identity comes from a decision.
    labels: Mapping[int, str]  # Row -> label, if labels are truth.
    # Each item has rows of a person, and a name of the person. If a person has several names, the newest name is used.
    names: tuple[tuple[tuple[int, ...], str], ...]
    missing: tuple[MissingFace, ...] = ()
    notices: tuple[str, ...] = ()


def find_dropped_faces(decisions: Iterable[Decision], faces: Sequence[Face]) -> set[str]:
    """Returns the ids of the representatives that are named by active decisions of the kind `drop`.

    `duplicate_of` in the rows `faces` must be the result of the current search for near-duplicates. In `faces`, a face
    that a decision dropped earlier must have the status `ok` or be a near-duplicate. With another status, the decision
    would not find the face.
    """
    finder = FaceFinder(faces)
    drops = [decision for decision in select_active(decisions) if decision.kind == "drop"]
    named = (finder.find(location)[0] for drop in drops for location in drop.parts[0])
    return {
        face.representative
        for face in named
        if face is not None and (face.status == "ok" or face.duplicate_of is not None)
    }


def find_preferred_faces(decisions: Iterable[Decision], faces: Sequence[Face]) -> list[str]:
    """Returns the ids of the faces that are named by active decisions of the kind `prefer`, in the order of the
    decisions.

    `duplicate_of` in the rows `faces` must be the result of the last finished search for near-duplicates.
    """
    finder = FaceFinder(faces)
    prefers = [decision for decision in select_active(decisions) if decision.kind == "prefer"]
    named = (finder.find(location)[0] for prefer in prefers for location in prefer.parts[0])
    return [face.face_id for face in named if face is not None]


def resolve_links(
    decisions: Sequence[Decision],
    faces: Sequence[Face],
    face_ids: Sequence[str],
    labels: Mapping[str, str] | None = None,
    finder: FaceFinder | None = None,
) -> Links:
    """Returns the constraints on the faces `face_ids`, the accepted faces in the order of their embeddings.

    `faces` are all faces of the ledger, and `decisions` is the whole log. `labels` maps face_id -> label, if labels are
    truth. A decision takes precedence over a label: if a split or a move takes a face out of a person, the label of
    this face is ignored. A decision about a near-duplicate applies to the representative. Raises Contradiction with the
    numbers of the decisions if decisions contradict each other.
    """
    row_of = {face: row for row, face in enumerate(face_ids)}
    active, finder = select_active(decisions), finder or FaceFinder(faces)
    resolved, missing = resolve_decisions(decisions, active, finder, row_of)
    # row -> number of the last split or move that names the row, even if a newer decision took the split or move back
    last_named: dict[int, int] = {}
    for decision in select_in_force(decisions):
        if decision.kind in ("split", "move"):
            found = (finder.find(location)[0] for location in decision.parts[0])
            rows = (row_of.get(face.representative) for face in found if face is not None)
            last_named |= {row: decision.number for row in rows if row is not None}
    constraints = _Constraints()
    for one in resolved:
        _collect_constraints(one, constraints, last_named)

    # Faces with one label are one person. Links join the first face of a label with each other face of the label.
    row_labels = {
        row_of[face]: label
        for face, label in (labels or {}).items()
        if face in row_of and row_of[face] not in last_named
    }
    first_of: dict[str, int] = {}
    for row in sorted(row_labels):
        first = first_of.setdefault(row_labels[row], row)
        if first != row:
            constraints.must_links.append((first, row, 0))

    # Find the blocks of connected rows, int64 (n,). A decision that separates rows of one block is a contradiction.
    # Without a contradiction, one face of each block on one side of the decision gets cannot-links to evenly spaced
    # blocks on the other side.
    pairs = np.array([(a, b) for a, b, _ in constraints.must_links], np.int64).reshape(-1, 2)
    block = label_components(len(face_ids), pairs)
    cannot_links: set[tuple[int, int]] = set()
    chains, conflicts = [], []
    for number, leaving, staying in constraints.separations:
        own = {int(block[row]): row for row in reversed(leaving)}
        other = {int(block[row]): row for row in reversed(staying)}
        for shared in sorted(set(own) & set(other)):
            chain = find_chain(constraints.must_links, own[shared], other[shared])
            chains.append(chain)
            newest = max(number, *(step for *_, step in chain))
            conflicts.append(make_conflict(number, newest, leaving, staying, block == shared, face_ids))
        others = list(other.values())
        sample = [others[place] for place in _space_evenly(len(others), MAX_CANNOT_LINKS)]
        cannot_links |= {(min(a, b), max(a, b)) for a in own.values() for b in sample}
    if conflicts:
        raise make_contradiction(conflicts, chains[0], constraints.must_links, decisions, row_labels, face_ids)
    locked = frozenset(int(block[row]) for row in constraints.locks)
    return Links(
        must_links=tuple((a, b) for a, b, _ in constraints.must_links),
        cannot_links=tuple(sorted(cannot_links)),
        block=block,
        separations=tuple((tuple(leaving), tuple(staying)) for _, leaving, staying in constraints.separations),
        exclusive=locked | {int(block[row]) for row in first_of.values()},
        locked=locked,
        review_rows=frozenset(constraints.review_rows),
        labels=row_labels,
        names=tuple(constraints.names),
        missing=tuple(missing),
        notices=tuple(constraints.notices),
    )


@dataclass
class _Constraints:
    """The constraints that have been collected from decisions. Row numbers stand for faces."""

    must_links: list[Link] = field(default_factory=list)
    # Number of the decision, rows that leave, rows that stay
    separations: list[tuple[int, list[int], list[int]]] = field(default_factory=list)
    locks: list[int] = field(default_factory=list)  # one row of each locked set of faces
    review_rows: set[int] = field(default_factory=set)
    names: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def _collect_constraints(one: ResolvedDecision, constraints: _Constraints, last_named: Mapping[int, int]) -> None:
    """Adds the constraints of a decision to `constraints`.

    If later decisions name all faces of a part, the decision has no effect on the part.
    """
    kind, number = one.decision.kind, one.decision.number
    parts = [one.get_rows(part, last_named) for part in range(len(one.parts))]
    # A merge makes its sides one person. A move makes its faces and the target person one person.
    if kind in ("merge", "move"):
        joined = parts if kind == "merge" else parts[:2]
        # Moved faces stay one person even if later decisions name all faces of the target person.
        if sum(map(bool, joined)) > 1 or (kind == "move" and len(parts[0]) > 1):
            rows = sorted({row for part in joined for row in part})
            constraints.must_links += [(rows[0], row, number) for row in rows[1:]]
            constraints.review_rows.update(rows if kind == "merge" else parts[0])
    # In a split or a move, the faces of the first part leave the person of the last part. The sides of a decision of
    # the kind `apart` are different people.
    separated = [(parts[0], parts[-1])] if kind in ("split", "move") else []
    separated = list(combinations(parts, 2)) if kind == "apart" else separated
    for leaving, staying in separated:
        if leaving and staying:
            both = set(leaving) & set(staying)
            if both:
                constraints.notices.append(
                    f"Decision {number} separates faces that are now copies of one picture. The decision has no effect "
                    "on these faces."
                )
            constraints.separations.append((number, leaving, [row for row in staying if row not in both]))
            constraints.review_rows.update(leaving if kind != "apart" else ())
    if kind == "lock" and parts[0]:
        constraints.must_links += [(parts[0][0], row, number) for row in parts[0][1:]]
        constraints.locks.append(parts[0][0])
        constraints.review_rows.update(parts[0])
    if kind == "rename" and parts[0]:
        constraints.names.append((tuple(sorted(one.parts[0])), str(one.decision.name)))


def _space_evenly(n: int, count: int) -> list[int]:
    """Returns at most `count` evenly spaced numbers of range(n).

    Rows are sorted by face id, so evenly spaced rows are as good as random rows.
    """
    return list(range(n)) if n <= count else [i * n // count for i in range(count)]
