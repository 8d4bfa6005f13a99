"""What follows today from what people decided about faces. Pure functions: acts in, links out.

A face of a decision is either named by the person who decided, or a witness: a face that a named identity held when the
decision was made. Witnesses say which person was meant, also when the identity falls apart or grows later. What was
named binds. A witness is released once a later split or move names it, so that one wrong face of a merged identity can
be taken out without undoing the merge, and once the merge or move is undone that brought it to the others. All else
that contradicts is refused, with the numbers of the decisions.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

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

# faces of the other side that a face taken out is kept from inside the grouping; the rest is upheld after it (ours)
SAMPLE = 32


@dataclass(frozen=True)
class Missing:
    """A face that a decision names and that is not in use today."""

    number: int
    face: FaceLocation
    why: str


@dataclass(frozen=True)
class Links:
    """What decisions and labels say of n faces, by row number."""

    must: tuple[tuple[int, int], ...]  # one person: a star over each set, n - 1 links for n faces
    cannot: tuple[tuple[int, int], ...]  # two persons: a sample; `apart` holds all
    block: np.ndarray  # int64 (n,): rows that are said to be one person share a number
    apart: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # no row of the first with any of the second
    anchored: frozenset[int]  # blocks that may not share a group: locked ones, and those of labels
    locked: frozenset[int]  # blocks
    reviewed: frozenset[int]  # rows that a decision holds in their place
    labelled: Mapping[int, str]  # row -> label that is truth
    names: tuple[tuple[tuple[int, ...], str], ...]  # rows and the name given to them, later ones win
    missing: tuple[Missing, ...] = ()
    notices: tuple[str, ...] = ()


def find_dropped_faces(acts: Iterable[Decision], faces: Sequence[Face]) -> set[str]:
    """Face ids that drops in force name, each standing for its copies; `faces` hold today's near-duplicates.

    A face that was dropped by a decision earlier must come as ok or near-duplicate, so that it can be found.
    """
    finder = FaceFinder(faces)
    found = (finder.find(named)[0] for act in select_active(acts) if act.kind == "drop" for named in act.parts[0])
    return {face.duplicate_of or face.face_id for face in found if face is not None and _usable(face)}


def _usable(face: Face) -> bool:
    return face.status == "ok" or face.duplicate_of is not None


@dataclass
class _Resolved:
    """An act's lists as rows of today, each with whether it is a witness."""

    act: Decision
    parts: list[dict[int, bool]]

    def people(self) -> list[dict[int, bool]]:
        """The lists that a merge or a move makes one person."""
        return self.parts if self.act.kind == "merge" else self.parts[:2]

    def rows(self, part: int, last_named: Mapping[int, int]) -> list[int]:
        """The rows of a part without the witnesses that a later decision names."""
        number = self.act.number
        return sorted(
            row for row, witness in self.parts[part].items() if not (witness and last_named.get(row, 0) > number)
        )

    def release(self, joined: _Resolved) -> None:
        """Forget witnesses that were with the others only through `joined`, which has been taken back since.

        What stays is what was named, or else the larger part.
        """
        for part in self.parts:
            sides = [set(part) & set(side) for side in joined.people()]
            if sum(map(bool, sides)) > 1:
                stays = max(
                    sides, key=lambda side: (any(not part[row] for row in side), len(side), -min(side, default=0))
                )
                for row in set().union(*sides) - stays:
                    if part[row]:
                        del part[row]


def _resolve(act: Decision, finder: FaceFinder, row_of: Mapping[str, int]) -> tuple[_Resolved, list[Missing]]:
    parts, missing = [], []
    for faces in act.parts:
        rows: dict[int, bool] = {}
        for named in faces:
            face, why = finder.find(named)
            row = row_of.get(face.duplicate_of or face.face_id) if face is not None else None
            if row is not None:
                rows[row] = rows.get(row, True) and named.witness
            elif not (act.kind == "drop" and face is not None and face.reason == DROPPED_BY_DECISION):
                missing.append(Missing(act.number, named, why or "not in use"))
        parts.append(rows)
    return _Resolved(act, parts), missing


def resolve_links(
    acts: Sequence[Decision], faces: Sequence[Face], face_ids: Sequence[str], labels: Mapping[str, str] | None = None
) -> Links:
    """What holds among `face_ids`, the accepted faces in the order of their embeddings.

    `faces` are all of the ledger, `acts` the whole log, `labels` face_id -> label where labels are truth. A decision
    goes before a label: a face that a split or move names is no longer labelled. Near-duplicates act through the face
    that stands for them. Raises BadInput for decisions that contradict each other, with their numbers.
    """
    row_of = {face: row for row, face in enumerate(face_ids)}
    finder, notices = FaceFinder(faces), []
    live = select_active(acts)
    resolved: list[_Resolved] = []
    missing: list[Missing] = []
    for act in live:
        one, gone = _resolve(act, finder, row_of)
        resolved.append(one)
        missing += gone
    back = find_undos(acts)
    for act in acts:
        if act.kind in ("merge", "move") and act.number in back:
            joined, _ = _resolve(act, finder, row_of)
            for one in resolved:
                if act.number < one.act.number < back[act.number]:
                    one.release(joined)
    last_named: dict[int, int] = {}  # row -> the last split or move that names it
    for one in resolved:
        if one.act.kind in ("split", "move"):
            last_named.update((row, one.act.number) for row in one.parts[0])

    must: list[tuple[int, int, int]] = []  # row, row, decision
    apart: list[tuple[int, list[int], list[int]]] = []
    locks: list[int] = []
    reviewed: set[int] = set()
    names = []
    for one in resolved:
        kind, number = one.act.kind, one.act.number
        kept = [one.rows(part, last_named) for part in range(len(one.parts))]
        if kind in ("merge", "move"):
            together = kept if kind == "merge" else kept[:2]
            for part, members in enumerate(together):
                if one.parts[part] and not members:
                    later = max(last_named[row] for row in one.parts[part])
                    raise BadInput(_emptied(one.act, live, later, [face_ids[row] for row in sorted(one.parts[part])]))
            if sum(map(bool, together)) > 1:
                members = sorted({row for rows in together for row in rows})
                must += [(members[0], row, number) for row in members[1:]]
                reviewed.update(members if kind == "merge" else kept[0])
        if kind in ("split", "move") and kept[0] and kept[-1]:
            both = set(kept[0]) & set(kept[-1])
            if both:
                notices.append(f"Decision {number} splits faces that are now copies of one picture: no effect on them.")
            apart.append((number, kept[0], [row for row in kept[-1] if row not in both]))
            reviewed.update(kept[0])
        if kind == "lock" and kept[0]:
            must += [(kept[0][0], row, number) for row in kept[0][1:]]
            locks.append(kept[0][0])
            reviewed.update(kept[0])
        if kind == "rename" and kept[0]:
            names.append((tuple(sorted(one.parts[0])), str(one.act.name)))
    labelled = {
        row_of[face]: label
        for face, label in (labels or {}).items()
        if face in row_of and row_of[face] not in last_named
    }
    first_of: dict[str, int] = {}
    for row in sorted(labelled):
        first = first_of.setdefault(labelled[row], row)
        if first != row:
            must.append((first, row, 0))

    block = blocks(len(face_ids), [(a, b) for a, b, _ in must])
    cannot: set[tuple[int, int]] = set()
    for number, out, rest in apart:
        own = {int(block[row]): row for row in reversed(out)}
        other = {int(block[row]): row for row in reversed(rest)}
        for shared in sorted(set(own) & set(other)):
            path = _path(must, own[shared], other[shared])
            raise BadInput(_contradiction(number, live, path, labelled, face_ids))
        others = list(other.values())
        sample = [others[i] for i in _spread(len(others), SAMPLE)]
        cannot |= {(min(a, b), max(a, b)) for a in own.values() for b in sample}
    locked = frozenset(int(block[row]) for row in locks)
    return Links(
        must=tuple((a, b) for a, b, _ in must),
        cannot=tuple(sorted(cannot)),
        block=block,
        apart=tuple((tuple(out), tuple(rest)) for _, out, rest in apart),
        anchored=locked | {int(block[row]) for row in first_of.values()},
        locked=locked,
        reviewed=frozenset(reviewed),
        labelled=labelled,
        names=tuple(names),
        missing=tuple(missing),
        notices=tuple(notices),
    )


def blocks(n: int, together: Sequence[tuple[int, int]]) -> np.ndarray:
    """int64 (n,): rows that are linked, directly or through others, share a number."""
    pairs = np.array(together, np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of range(n), evenly spaced; rows are sorted by face id, so this is as good as drawn."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]


def _path(must: Sequence[tuple[int, int, int]], start: int, end: int) -> list[tuple[int, int, int]]:
    """The shortest chain of links from one row to another."""
    near: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for a, b, number in must:
        near[a].append((b, number))
        near[b].append((a, number))
    came: dict[int, tuple[int, int]] = {start: (start, 0)}
    todo = deque([start])
    while todo and end not in came:
        here = todo.popleft()
        for there, number in near[here]:
            if there not in came:
                came[there] = (here, number)
                todo.append(there)
    path = []
    while end != start:
        before, number = came[end]
        path.append((before, end, number))
        end = before
    return path[::-1]


def _contradiction(
    number: int,
    live: Sequence[Decision],
    path: Sequence[tuple[int, int, int]],
    labelled: Mapping[int, str],
    face_ids: Sequence[str],
) -> str:
    kinds = {act.number: act.kind for act in live}
    one, other = face_ids[path[0][0]], face_ids[path[-1][1]]
    said = [f"decision {step} ({kinds[step]})" for step in sorted({step for *_, step in path} - {0})]
    said += [f"label {label}" for label in sorted({labelled[row] for row, _, step in path if step == 0})]
    verb = "says" if len(said) == 1 else "say"
    return (
        f"Contradiction: {' and '.join(said)} {verb} that faces {one[:12]} and {other[:12]} are one person, decision "
        f"{number} ({kinds[number]}) says that they are two: take one back with `likeness decide DATASET undo NUMBER`."
    )


def _emptied(act: Decision, live: Sequence[Decision], later: int, faces: Sequence[str]) -> str:
    kinds = {one.number: one.kind for one in live}
    shown = ", ".join(face[:12] for face in faces[:3]) + (f" and {len(faces) - 3} more" if len(faces) > 3 else "")
    return (
        f"Contradiction: decision {act.number} ({act.kind}) gives faces {shown} to a person, decision {later} "
        f"({kinds[later]}) takes the last of them away: take one back with `likeness decide DATASET undo NUMBER`."
    )
