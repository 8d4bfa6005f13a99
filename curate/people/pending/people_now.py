"""Follows recorded decisions in memory, before a grouping applies them.

`likeness decide` and the review in the browser name people by their ids at the time of the request. A decision that is
recorded and not applied may have merged or split these people. The class PeopleNow says which face belongs to which
person after all recorded decisions. To find these people, PeopleNow applies the constraints of all later decisions to
the groups of the last grouping. The result of the next grouping can be different, because the next grouping compares
the embeddings again: a face that a split takes out of a person can then join a third person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from curate.people.constraints.apply_decisions import regroup_by_links
from curate.people.constraints.links import resolve_links
from curate.people.identities import choose_ids, name_groups
from curate.people.pending.earlier_groups import restore_groups
from curate.people.pending.refused_photos import ConsentRule, plan_refusals
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import CONSENT_KIND, DROP, DROPPED_BY_DECISION, Decision, Place
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import select_active, select_in_force
from manifests.ledger.records import Face, Identity, Membership


@dataclass(frozen=True)
class Change:
    """What decisions change."""

    # The new rows of faces that a decision drops, whose photo loses its consent, or that an undo brings back.
    faces: list[Face]
    owner: dict[str, str]  # The person of each face of the people whom the decisions may change.
    identities: list[Identity]  # The new rows of the people whom the decisions may change.
    gone: frozenset[str]  # The ids that do not exist any more.
    left: frozenset[str]  # The faces that belong to no person any more.


class PeopleNow:
    """The faces and people of a dataset after all recorded decisions.

    Attributes: `faces` maps a face id to its row. `identities` maps an id to the row of a person, `members` maps an id
    to the sorted face ids of the person, and `identity_of` maps a face to its person. Near-duplicates and faces that
    are not in use belong to no person. `log` has all recorded decisions. `finder` finds the face of a location.
    """

    def __init__(
        self,
        faces: Sequence[Face],
        memberships: Sequence[Membership],
        identities: Sequence[Identity],
        log: Sequence[Decision],
        key: bytes,
        labels: Mapping[str, str] | None = None,
        rule: ConsentRule | None = None,
    ) -> None:
        """`log` are the decisions that are already applied to `memberships`. `labels` maps a face to its label if
        labels are truth. Without a `rule`, only decisions refuse the use of a photo.
        """
        self.faces = {face.face_id: face for face in faces}
        self.finder = FaceFinder(faces)
        self.identities = {row.identity_id: row for row in identities}
        self.identity_of = {row.face_id: row.identity_id for row in memberships}
        self.members: dict[str, list[str]] = defaultdict(list)
        for row in sorted(memberships, key=lambda row: row.face_id):
            self.members[row.identity_id].append(row.face_id)
        self._followed: list[Decision] = []
        self._held: list[Decision] = []  # Decisions that `hold` added since the last call of `follow`.
        self._key, self._labels, self._rule = key, labels or {}, rule or ConsentRule()
        self._grouped = {one.number for one in select_in_force(log)}  # Decisions in force that the grouping contains.
        self._group_of = dict(self.identity_of)  # Face -> group of the last grouping.
        self._group_members = {person: tuple(own) for person, own in self.members.items()}
        self._copies: dict[str, list[str]] = defaultdict(list)  # face -> the near-duplicates that it stands for
        for face in faces:
            if face.duplicate_of is not None:
                self._copies[face.duplicate_of].append(face.face_id)
        # The faces that each decision names. An undo names the faces of the decision that it takes back.
        self._named: dict[int, set[str]] = {}
        self._numbers: dict[str, tuple[int, ...]] = {}  # face -> numbers of the decisions that name the face
        self._by_number: dict[int, Decision] = {}
        # kind and places -> numbers of the decisions of this kind that name exactly these places
        self._alike: dict[tuple[str, frozenset[Place]], tuple[int, ...]] = {}
        self._dropped: dict[int, list[Face]] = {}  # Number of a drop -> rows of its faces before the drop.
        self._allowed: dict[str, Face] = {}  # Face of a photo without consent -> its row if the photo is allowed again.
        self._add_to_log(log)
        for one in log:
            if one.kind == "drop":
                self._dropped[one.number] = self._restore_rows(one)

    @property
    def log(self) -> list[Decision]:
        return [*self._followed, *self._held]

    def copy(self) -> PeopleNow:
        """Returns a copy of the people. A change of the copy does not change the original.

        The lists and rows in the tables are shared, because `follow` replaces them and never changes them.
        """
        people = copy(self)
        for name, table in vars(self).items():
            if isinstance(table, dict | list):
                setattr(people, name, table.copy())
        people.finder = self.finder.copy()
        return people

    def find_alike(self, decision: Decision) -> list[Decision]:
        """Returns the decisions of the log that have the kind of `decision` and name the same places."""
        return [self._by_number[number] for number in self._alike.get((decision.kind, decision.places), ())]

    def plan(self, decisions: Sequence[Decision]) -> Change:
        """Returns the change that `decisions`, the next decisions of the log, will cause. The people stay as they are.

        Raises BadInput if decisions contradict each other.
        """
        decisions = [*self._held, *decisions]
        changed_faces, _ = self._plan_faces(decisions)
        row_of = {face.face_id: face for face in changed_faces}
        gone = {face.face_id for face in changed_faces if face.status != "ok"}
        # A face that comes back joins the other faces of its group again, if the last grouping contained the face.
        used = {face.face_id for face in changed_faces if face.status == "ok"}
        back = used & self._group_of.keys()
        named = {name for one in decisions for name in self._find_named(one, decisions)}
        named |= {face.face_id for face in changed_faces}
        named |= {name for face in back for name in self._group_members[self._group_of[face]]}
        # A move says to whom a face belongs, also if the last grouping does not contain the face.
        if used - back:
            active = select_active([*self._followed, *decisions])
            moved = (self.finder.find(place)[0] for one in active if one.kind == "move" for place in one.parts[0])
            back |= used & {face.face_id for face in moved if face is not None}
        log, people = self._select_connected(named, decisions)
        members = {face for person in people for face in self.members[person]}
        face_ids = sorted((members | back) - gone)
        finder = self.finder
        if changed_faces:
            photos = {place.photo_id for one in log for part in one.parts for place in part}
            finder = FaceFinder(
                row_of.get(face.face_id, face)
                for face in self.finder.select_photos(photos | {face.photo_id for face in changed_faces})
            )
        labels = {face: self._labels[face] for face in face_ids if face in self._labels}
        links = resolve_links(log, [], face_ids, labels, finder)
        if not face_ids:
            return Change(changed_faces, {}, [], frozenset(people), frozenset(members))
        before = [self.identity_of.get(face) for face in face_ids]
        groups = regroup_by_links(restore_groups(self._group_of, self._grouped, face_ids, log, finder), links, before)

        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, group in enumerate(groups.tolist()):
            rows_of[group].append(row)
        smallest = {group: face_ids[rows[0]] for group, rows in rows_of.items()}
        others = self.identities.keys() - people
        id_of = choose_ids(rows_of, before, smallest, self._key, others)
        names = name_groups(groups, links, smallest)
        locked = set(groups[np.isin(links.block, sorted(links.locked))].tolist())
        identities = []
        for group, rows in rows_of.items():
            old = self.identities.get(id_of[group])
            same = old is not None and self.members[id_of[group]] == [face_ids[row] for row in rows]
            doubtful = same and old is not None and old.doubtful and group not in locked and group not in names
            identities.append(Identity(id_of[group], names.get(group), group in locked, doubtful))
        owner = {face: id_of[group] for face, group in zip(face_ids, groups.tolist(), strict=True)}
        return Change(
            changed_faces, owner, identities, frozenset(people - set(id_of.values())), frozenset(members - owner.keys())
        )

    def follow(self, decisions: Sequence[Decision], change: Change | None = None) -> Change:
        """Changes the people according to `decisions`, the next decisions of the log. Returns what changed.

        `change` is the result of `plan` for `decisions`, if the caller has it. Raises BadInput, and changes nothing, if
        decisions contradict each other.
        """
        change = change or self.plan(decisions)
        decisions, self._held = [*self._held, *decisions], []
        for one in decisions:
            if one.kind == "drop":
                self._dropped[one.number] = self._find_dropped_rows(one)
        _, self._allowed = self._plan_faces(decisions)
        self.faces.update((face.face_id, face) for face in change.faces)
        self.finder.replace_faces(change.faces)
        for person in change.gone | {row.identity_id for row in change.identities}:
            self.members.pop(person, None)
        for person in change.gone:
            self.identities.pop(person, None)
        for face in change.left:
            del self.identity_of[face]
        self.identities.update((row.identity_id, row) for row in change.identities)
        self.identity_of.update(change.owner)
        for face in sorted(change.owner):
            self.members[change.owner[face]].append(face)
        self._add_to_log(decisions)
        return change

    def list_photos(self, person: str) -> list[str]:
        """Returns the photos that show a person, also the photos of near-duplicates, sorted."""
        faces = (row for face in self.members.get(person, ()) for row in (self.faces[face], *self.find_copies(face)))
        return sorted({row.photo_id for row in faces})

    def find_copies(self, face: str) -> list[Face]:
        """Returns the rows of the near-duplicates that a face stands for."""
        rows = (self.faces[copy] for copy in self._copies.get(face, ()))
        return [row for row in rows if row.duplicate_of == face]

    def hold(self, decisions: Sequence[Decision]) -> None:
        """Adds decisions to the log, although they contradict the log. The next call of `follow` follows these
        decisions, too.
        """
        self._held += decisions

    def _add_to_log(self, decisions: Sequence[Decision]) -> None:
        self._followed += decisions
        for one in decisions:
            self._by_number[one.number] = one
            self._named[one.number] = self._find_named(one)
            for face in self._named[one.number]:
                self._numbers[face] = (*self._numbers.get(face, ()), one.number)
            if one.kind != "undo":
                key = one.kind, one.places
                self._alike[key] = (*self._alike.get(key, ()), one.number)

    def _find_named(self, decision: Decision, new: Sequence[Decision] = ()) -> set[str]:
        """Returns the faces that a decision names, and the faces that are used instead of these faces.

        `new` are decisions that are not in the log yet. If `decision` is an undo, it may take back a decision of `new`.
        """
        while decision.kind == "undo":
            if decision.undoes in self._named:
                return self._named[decision.undoes]
            undone = next((one for one in new if one.number == decision.undoes), None)
            if undone is None:
                return set()
            decision = undone
        parts = [*decision.parts, *(part for taken in decision.takes_back for part in (taken.faces, taken.others))]
        found = (self.finder.find(place)[0] for part in parts for place in part)
        return {name for face in found if face is not None for name in (face.face_id, face.representative)}

    def _select_connected(self, faces: set[str], new: Sequence[Decision]) -> tuple[list[Decision], set[str]]:
        """Returns the decisions that are connected with `faces`, and the people that are connected with `faces`. The
        list of decisions ends with `new`.

        A decision is connected with a person if it names a face of the person. The other decisions and people have no
        effect on the groups of `faces`.
        """
        numbers: set[int] = set()
        people: set[str] = set()
        seen: set[str] = set()
        waiting = set(faces)
        while waiting:
            face = waiting.pop()
            seen.add(face)
            person = self.identity_of.get(face)
            if person is not None and person not in people:
                people.add(person)
                waiting.update(set(self.members[person]) - seen)
            for number in self._numbers.get(face, ()):
                if number not in numbers:
                    numbers.add(number)
                    waiting |= self._named[number] - seen
        return [*(self._by_number[number] for number in sorted(numbers)), *new], people

    def _plan_faces(self, new: Sequence[Decision]) -> tuple[list[Face], dict[str, Face]]:
        """Returns the new rows of the faces that `new` drops or brings back, and the next value of `_allowed`."""
        drops = self._plan_drops(new)
        if not drops and not any(one.kind in (CONSENT_KIND, "undo") for one in new):
            return [], self._allowed
        return plan_refusals([*self._followed, *new], self._rule, self.finder, self._allowed, drops)

    def _plan_drops(self, new: Sequence[Decision]) -> list[Face]:
        """Returns the new rows of the faces that `new` drops or brings back."""
        if not any(one.kind in ("drop", "undo") or one.takes_back for one in new):
            return []
        before = self._list_dropped(self._followed)
        after = self._list_dropped([*self._followed, *new])
        back = [row for face, row in before.items() if face not in after]
        gone = [row for face, row in after.items() if face not in before]
        dropped = [replace(face, status="dropped", reason=DROPPED_BY_DECISION, duplicate_of=None) for face in gone]
        return [row for row in (*dropped, *back) if self._find_allowed(row.face_id) != row]

    def _list_dropped(self, log: Sequence[Decision]) -> dict[str, Face]:
        """Returns the faces that the drops of `log` drop, with their rows before the drops."""
        rows: dict[str, Face] = {}
        shrunk = {taken.number for one in log for taken in one.takes_back if taken.effect == DROP}
        for drop in select_active(log):
            if drop.kind == "drop":
                own = self._dropped.get(drop.number) or self._find_dropped_rows(drop)
                if drop.number in shrunk:  # a newer decision takes back the drop of some faces and of their copies
                    found = {face.face_id for face, _ in map(self.finder.find, drop.parts[0]) if face is not None}
                    still = {row.representative for row in own if row.face_id in found}
                    own = [row for row in own if row.representative in still]
                rows |= {row.face_id: row for row in own}
        return rows

    def _find_allowed(self, face: str) -> Face:
        """Returns the row that a face has, or would have if the consent for its photo was not refused."""
        return self._allowed.get(face, self.faces[face])

    def _find_dropped_rows(self, drop: Decision) -> list[Face]:
        """Returns the rows of the named faces and their near-duplicates, as the rows were before any drop."""
        rows: dict[str, Face] = {}
        for face, cause in map(self.finder.find, drop.parts[0]):
            if face is not None and not cause:
                same = (face.representative, *self._copies.get(face.representative, ()))
                rows |= {name: self._find_allowed(name) for name in same}
            elif face is not None:  # another decision may drop the face already
                rows |= {
                    row.face_id: row for every in self._dropped.values() for row in every if row.face_id == face.face_id
                }
        return list(rows.values())

    def _restore_rows(self, drop: Decision) -> list[Face]:
        """Returns the rows that the faces of `drop` get if `drop` is taken back. `drop` must be a decision of the last
        grouping.

        The next grouping finds out which of the faces are near-duplicates of each other, so all of the faces become
        faces in use.
        """
        rows: dict[str, Face] = {}
        for face, cause in map(self.finder.find, drop.parts[0]):
            if face is not None and not cause:  # for example, a newer move took back the drop of this face
                same = (face.representative, *self._copies.get(face.representative, ()))
                rows |= {name: self.faces[name] for name in same}
            elif face is not None and face.reason == DROPPED_BY_DECISION:
                rows[face.face_id] = replace(face, status="ok", reason=None)
        return list(rows.values())


def follow_batches(people: PeopleNow, batches: Sequence[Sequence[Decision]]) -> None:
    """Follows decisions that were recorded, one batch after the other. A batch has the decisions of one command.

    A batch can contradict the log because photos or labels have changed since. Such a batch waits for the next batch,
    which may take back the cause of the contradiction. If the contradiction is still there at the end, this batch and
    all later batches change no person.
    """
    for batch in batches:
        try:
            people.follow(batch)
        except BadInput:
            people.hold(batch)
