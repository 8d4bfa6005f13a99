"""Resolves the recorded decisions of people into constraints on today's faces.

A decision names faces in two ways. The person who decides names some faces directly. The other faces are witnesses:
they belonged to an identity that the person named. Witnesses show which person a decision means, even if its identity
is split or grows later.

Faces named directly always bind. A witness is released from a decision in two cases. First, a later split or move names
the face directly. One wrong face can thus leave a merged identity without an undo of the merge. Second, a merge or move
that brought the witness into the identity is undone. All other contradictions raise BadInput with the numbers of the
decisions. Nothing in this file reads or writes the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from curate.people.clustering.components import label_components
from curate.people.contradictions import Link, describe_contradiction, describe_emptied, find_chain
from manifests.errors import BadInput
from manifests.ledger.decision_log import (
    DROPPED_BY_DECISION,
    Decision,
    FaceFinder,
    FaceLocation,
    find_undos,
    select_active,
)
from manifests.ledger.records import Face

# At most this many cannot-links for each face that a decision separates from others (ours). `apply_decisions` separates
# the face from all others after the grouping.
MAX_CANNOT_LINKS = 32


@dataclass(frozen=True)
class MissingFace:
    """A face that a decision names and that is not in use today."""

    number: int  # of the decision
    face: FaceLocation
    why: str


@dataclass(frozen=True)
class Links:
    """The constraints that decisions and labels put on n faces. Faces are row numbers."""

    must: tuple[tuple[int, int], ...]  # pairs that are one person: n - 1 pairs for a set of n faces
    cannot: tuple[tuple[int, int], ...]  # pairs that are two people: a sample, `apart` has all
    block: np.ndarray  # int64 (n,): rows that `must` connects share a block number
    apart: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # no row of the first set may join one of the second
    exclusive: frozenset[int]  # blocks that may not share a group: locked blocks, and a block for each label
    locked: frozenset[int]  # blocks
    review_rows: frozenset[int]  # rows whose identity comes from a decision
    labels: Mapping[int, str]  # row -> label, if labels are truth
    names: tuple[tuple[tuple[int, ...], str], ...]  # rows of a person and its name; later names win
    missing: tuple[MissingFace, ...] = ()
    notices: tuple[str, ...] = ()


def find_dropped_faces(decisions: Iterable[Decision], faces: Sequence[Face]) -> set[str]:
    """Returns the ids of the representatives that active drops name.

    `faces` are the rows with today's near-duplicates. A face that a decision dropped before must be given as ok or as a
    near-duplicate, so that the drop can find it again.
    """
    finder = FaceFinder(faces)
    drops = [decision for decision in select_active(decisions) if decision.kind == "drop"]
    named = (finder.find(location)[0] for drop in drops for location in drop.parts[0])
    return {
        face.representative
        for face in named
        if face is not None and (face.status == "ok" or face.duplicate_of is not None)
    }


def resolve_links(
    decisions: Sequence[Decision],
    faces: Sequence[Face],
    face_ids: Sequence[str],
    labels: Mapping[str, str] | None = None,
) -> Links:
    """Returns the constraints on the faces `face_ids`, the accepted faces in the order of their embeddings.

    `faces` are all faces of the ledger, and `decisions` is the whole log. `labels` maps face_id -> label, if labels are
    truth. A decision takes precedence over a label: a face that a split or move names has no label. A near-duplicate
    counts as its representative. Raises BadInput with the numbers of the decisions if decisions contradict each other.
    """
    row_of = {face: row for row, face in enumerate(face_ids)}
    active = select_active(decisions)
    resolved, missing = _resolve_all(decisions, active, FaceFinder(faces), row_of)
    last_named: dict[int, int] = {}  # row -> the last split or move that names it
    for one in resolved:
        if one.decision.kind in ("split", "move"):
            last_named.update((row, one.decision.number) for row in one.parts[0])
    constraints = _Constraints()
    for one in resolved:
        _collect_constraints(one, constraints, active, last_named, face_ids)

    # Faces of one label are one person. A link joins the first face of the label with each other face.
    row_labels = {
        row_of[face]: label
        for face, label in (labels or {}).items()
        if face in row_of and row_of[face] not in last_named
    }
    first_of: dict[str, int] = {}
    for row in sorted(row_labels):
        first = first_of.setdefault(row_labels[row], row)
        if first != row:
            constraints.must.append((first, row, 0))

    # Blocks of connected rows, int64 (n,). A separation inside a block is a contradiction. Otherwise a face of each
    # separated block gets cannot-links to evenly spaced blocks of the other side.
    pairs = np.array([(a, b) for a, b, _ in constraints.must], np.int64).reshape(-1, 2)
    block = label_components(len(face_ids), pairs)
    cannot: set[tuple[int, int]] = set()
    for number, leaving, staying in constraints.apart:
        own = {int(block[row]): row for row in reversed(leaving)}
        other = {int(block[row]): row for row in reversed(staying)}
        for shared in sorted(set(own) & set(other)):
            chain = find_chain(constraints.must, own[shared], other[shared])
            raise BadInput(describe_contradiction(number, active, chain, row_labels, face_ids))
        others = list(other.values())
        sample = [others[place] for place in _space_evenly(len(others), MAX_CANNOT_LINKS)]
        cannot |= {(min(a, b), max(a, b)) for a in own.values() for b in sample}
    locked = frozenset(int(block[row]) for row in constraints.locks)
    return Links(
        must=tuple((a, b) for a, b, _ in constraints.must),
        cannot=tuple(sorted(cannot)),
        block=block,
        apart=tuple((tuple(leaving), tuple(staying)) for _, leaving, staying in constraints.apart),
        exclusive=locked | {int(block[row]) for row in first_of.values()},
        locked=locked,
        review_rows=frozenset(constraints.review_rows),
        labels=row_labels,
        names=tuple(constraints.names),
        missing=tuple(missing),
        notices=tuple(constraints.notices),
    )


@dataclass
class _Resolved:
    """A decision whose faces are row numbers of today's faces."""

    decision: Decision
    parts: list[dict[int, bool]]  # as the parts of the decision: row -> whether the face is only a witness

    def get_joined_parts(self) -> list[dict[int, bool]]:
        """Returns the parts that a merge or a move makes one person."""
        return self.parts if self.decision.kind == "merge" else self.parts[:2]

    def get_rows(self, part: int, last_named: Mapping[int, int]) -> list[int]:
        """Returns the rows of a part, without the witnesses that a later split or move names."""
        number = self.decision.number
        return sorted(
            row for row, witness in self.parts[part].items() if not (witness and last_named.get(row, 0) > number)
        )

    def release_witnesses(self, undone: _Resolved) -> None:
        """Removes the witnesses that were in their part only because of a merge or move that is undone.

        If a part holds faces of several sides of `undone`, one side stays: a side with a face named directly, or else
        the largest side.
        """
        for part in self.parts:
            sides = [set(part) & set(side) for side in undone.get_joined_parts()]
            if sum(map(bool, sides)) > 1:
                staying = max(
                    sides, key=lambda side: (any(not part[row] for row in side), len(side), -min(side, default=0))
                )
                for row in set().union(*sides) - staying:
                    if part[row]:
                        del part[row]


def _resolve_all(
    decisions: Sequence[Decision], active: Sequence[Decision], finder: FaceFinder, row_of: Mapping[str, int]
) -> tuple[list[_Resolved], list[MissingFace]]:
    """Returns the active decisions as rows, without released witnesses of undone decisions, and the missing faces."""
    resolved: list[_Resolved] = []
    missing: list[MissingFace] = []
    for decision in active:
        one, gone = _resolve(decision, finder, row_of)
        resolved.append(one)
        missing += gone
    undo_of = find_undos(decisions)
    for decision in decisions:
        if decision.kind in ("merge", "move") and decision.number in undo_of:
            undone, _ = _resolve(decision, finder, row_of)
            for one in resolved:  # decisions made while the undone decision was active
                if decision.number < one.decision.number < undo_of[decision.number]:
                    one.release_witnesses(undone)
    return resolved, missing


def _resolve(decision: Decision, finder: FaceFinder, row_of: Mapping[str, int]) -> tuple[_Resolved, list[MissingFace]]:
    """Returns the decision as rows, and the faces of it that are not in use."""
    parts, missing = [], []
    for locations in decision.parts:
        rows: dict[int, bool] = {}
        for location in locations:
            face, why = finder.find(location)
            row = row_of.get(face.representative) if face is not None else None
            if row is not None:
                rows[row] = rows.get(row, True) and location.witness
            elif not (decision.kind == "drop" and face is not None and face.reason == DROPPED_BY_DECISION):
                missing.append(MissingFace(decision.number, location, why or "not in use"))
        parts.append(rows)
    return _Resolved(decision, parts), missing


@dataclass
class _Constraints:
    """The constraints of the decisions so far, by row."""

    must: list[Link] = field(default_factory=list)
    apart: list[tuple[int, list[int], list[int]]] = field(default_factory=list)  # decision, rows leaving, rows staying
    locks: list[int] = field(default_factory=list)  # a row of each locked set
    review_rows: set[int] = field(default_factory=set)
    names: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def _collect_constraints(
    one: _Resolved,
    constraints: _Constraints,
    active: Sequence[Decision],
    last_named: Mapping[int, int],
    face_ids: Sequence[str],
) -> None:
    """Adds the constraints of a decision to `constraints`.

    Raises BadInput if a later decision took all faces of a part.
    """
    kind, number = one.decision.kind, one.decision.number
    parts = [one.get_rows(part, last_named) for part in range(len(one.parts))]
    if kind in ("merge", "move"):  # the sides of a merge, or the faces of a move and their new person, become one
        joined = parts if kind == "merge" else parts[:2]
        for part, rows in enumerate(joined):
            if one.parts[part] and not rows:
                later = max(last_named[row] for row in one.parts[part])
                faces = [face_ids[row] for row in sorted(one.parts[part])]
                raise BadInput(describe_emptied(one.decision, active, later, faces))
        if sum(map(bool, joined)) > 1:
            rows = sorted({row for part in joined for row in part})
            constraints.must += [(rows[0], row, number) for row in rows[1:]]
            constraints.review_rows.update(rows if kind == "merge" else parts[0])
    if kind in ("split", "move") and parts[0] and parts[-1]:  # the faces leave the person of the last part
        both = set(parts[0]) & set(parts[-1])
        if both:
            constraints.notices.append(
                f"Decision {number} separates faces that are now copies of one picture. The decision has no effect on "
                "these faces."
            )
        constraints.apart.append((number, parts[0], [row for row in parts[-1] if row not in both]))
        constraints.review_rows.update(parts[0])
    if kind == "lock" and parts[0]:
        constraints.must += [(parts[0][0], row, number) for row in parts[0][1:]]
        constraints.locks.append(parts[0][0])
        constraints.review_rows.update(parts[0])
    if kind == "rename" and parts[0]:
        constraints.names.append((tuple(sorted(one.parts[0])), str(one.decision.name)))


def _space_evenly(n: int, count: int) -> list[int]:
    """Returns at most `count` of range(n), evenly spaced. Rows are sorted by face id, so this is as good as random."""
    return list(range(n)) if n <= count else [i * n // count for i in range(count)]
