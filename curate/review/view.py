"""Holds what the pages show in memory: people, faces and files. The ledger is read in one short connection."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate.decisions.face_lookup import FaceLookup
from manifests.ledger.decision_log import Decision, read_decisions, select_active
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Identity, Membership
from manifests.privacy.keys import read_key
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path

# The files of each photo that is in use. The first file in the order of the names stands for the photo.
_FILES = """SELECT photo_id, min(uri) AS uri, arg_min(sha256, uri) AS sha256 FROM files
            WHERE photo_id IS NOT NULL AND uri NOT LIKE 'hmac:%' GROUP BY photo_id"""
_SPLITS = "SELECT identity_id, min(split) AS split FROM splits WHERE status = 'ok' GROUP BY identity_id"


@dataclass(frozen=True)
class Person:
    """One person on the wall. `View.lookup` has the faces of the person."""

    identity_id: str
    name: str | None = None
    locked: bool = False
    doubtful: bool = False
    split: str | None = None
    name_number: int = 0  # number of the decision that gave the name; 0 if the name comes from a label


@dataclass(frozen=True)
class PhotoFile:
    """The file that stands for a photo."""

    uri: str
    sha256: str | None
    name: str  # the name of the file, as one printable line


@dataclass
class Change:
    """What was in the view before a change, in the order in which it was replaced."""

    members: list[tuple[str, str | None]] = field(default_factory=list)  # face, its person before
    people: list[tuple[str, Person | None]] = field(default_factory=list)  # id, the person before
    faces: list[Face] = field(default_factory=list)  # the rows before


class View:
    """The people and faces of a dataset at one time. A decision changes the view through `put_member` and the like."""

    def __init__(self, ledger: Ledger) -> None:
        rows, memberships = ledger.read_rows(Face), ledger.read_rows(Membership)
        self.key = read_key(ledger)
        self.faces: dict[str, Face] = {face.face_id: face for face in rows}
        self.members: dict[str, Membership] = {row.face_id: row for row in memberships}
        self.lookup = FaceLookup(rows, memberships)
        split_of = dict(ledger.query(_SPLITS).iter_rows())
        self.people: dict[str, Person] = {
            row.identity_id: Person(row.identity_id, row.name, row.locked, row.doubtful, split_of.get(row.identity_id))
            for row in ledger.read_rows(Identity)
        }
        self.copies: dict[str, list[str]] = defaultdict(list)  # representative -> its near-duplicates
        for face in rows:
            if face.duplicate_of is not None:
                self.copies[face.duplicate_of].append(face.face_id)
        self.file_of: dict[str, PhotoFile] = {
            photo: PhotoFile(uri, sha256, make_printable(display_path(uri).name))
            for photo, uri, sha256 in ledger.query(_FILES).iter_rows()
        }
        self.decisions: list[Decision] = read_decisions(ledger)
        self._number_names()
        self._change: Change | None = None
        self._rows: dict[str, dict[str, Any]] = {}  # identity -> its row on the wall
        self._texts: dict[str, str] = {}  # identity -> the text that a search looks through

    def _number_names(self) -> None:
        """Finds the decision that gave each person its name."""
        for decision in select_active(self.decisions):
            if decision.kind == "rename":
                found = (self.lookup.find_today(location) for location in decision.parts[0])
                votes = Counter(self.lookup.get_identity(face) for face in found if face is not None)
                person = self.people.get(str(max(votes, key=lambda one: votes[one]))) if votes else None
                if person is not None and person.name == decision.name:
                    self.people[person.identity_id] = replace(person, name_number=decision.number)

    # changes

    def start_change(self) -> Change:
        """Begins to note what the next changes replace."""
        self._change = Change()
        return self._change

    def end_change(self) -> None:
        """Ends the change, and removes people without faces."""
        assert self._change is not None
        for person in {person for _, person in self._change.members if person is not None}:
            if person in self.people and not self.lookup.get_members(person):
                self._change.people.append((person, self.people.pop(person)))
        self._change = None

    def put_member(self, face: str, person: str | None) -> None:
        """Gives a face to a person, or to nobody."""
        before = self.lookup.get_identity(face)
        if self._change is not None:
            self._change.members.append((face, before))
        self.lookup.put_member(face, person)
        self._forget(before, person)

    def put_person(self, person: Person) -> None:
        """Adds a person, or replaces the person with the same id."""
        if self._change is not None:
            self._change.people.append((person.identity_id, self.people.get(person.identity_id)))
        self.people[person.identity_id] = person
        self._forget(person.identity_id)

    def put_face(self, face: Face) -> None:
        """Replaces the row of a face."""
        before = self.faces[face.face_id]
        if self._change is not None:
            self._change.faces.append(before)
        for old, new in ((before.duplicate_of, None), (None, face.duplicate_of)):
            if old is not None and face.face_id in self.copies[old]:
                self.copies[old].remove(face.face_id)
            if new is not None:
                self.copies[new].append(face.face_id)
        self.faces[face.face_id] = face
        self.lookup.put_face(face)

    def take_back(self, change: Change) -> None:
        """Takes the newest change back."""
        for row in reversed(change.faces):
            self.put_face(row)
        for face, owner in reversed(change.members):
            self.put_member(face, owner)
        for identity_id, person in reversed(change.people):
            if person is None:
                self.people.pop(identity_id, None)
            else:
                self.people[identity_id] = person
            self._forget(identity_id)

    def _forget(self, *people: str | None) -> None:
        """Forgets what was computed about some people."""
        for person in people:
            if person is not None:
                self._rows.pop(person, None)
                self._texts.pop(person, None)

    # rows of the pages

    def describe_person(self, identity_id: str) -> dict[str, Any]:
        """Returns the row of a person on the wall.

        `mean` is the mean confidence, `weakest` the least confidence, and `closest` the least margin of the faces.
        """
        row = self._rows.get(identity_id)
        if row is None:
            person, faces = self.people[identity_id], self.lookup.get_members(identity_id)
            members = [self.members[face] for face in faces if face in self.members]
            best = max(members, key=lambda member: (member.confidence, member.face_id), default=None)
            row = self._rows[identity_id] = {
                "id": identity_id,
                "name": person.name,
                "faces": len(faces),
                "locked": person.locked,
                "doubtful": person.doubtful,
                "split": person.split,
                "best": best.face_id if best else next(iter(faces), None),
                "weakest": min((member.confidence for member in members), default=1.0),
                "closest": min((member.margin for member in members), default=1.0),
                "mean": sum(member.confidence for member in members) / len(members) if members else 1.0,
            }
        return row

    def list_people(self, search: str = "", order: str = "size", show: str = "all") -> list[dict[str, Any]]:
        """Returns the rows of the people that match a search, in an order of ORDERS.

        `show` is a key of SHOWN. A search finds names, file names, and parts of ids.
        """
        is_shown, word = SHOWN[show], search.casefold()
        rows = [row for person in self.people if is_shown(row := self.describe_person(person))]
        rows = [row for row in rows if word in self._find_text(row["id"])] if word else rows
        return sorted(rows, key=ORDERS[order])

    def _find_text(self, identity_id: str) -> str:
        text = self._texts.get(identity_id)
        if text is None:
            words = [self.people[identity_id].name or "", identity_id]
            for face in self.lookup.get_members(identity_id):
                file = self.file_of.get(self.faces[face].photo_id)
                words += [face, file.name if file else ""]
            text = self._texts[identity_id] = "\n".join(words).casefold()
        return text


# maps the value of the menu `order` to the key that sorts the rows of the wall
ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "size": lambda row: (-row["faces"], row["id"]),
    "weakest": lambda row: (row["weakest"], row["id"]),
    "closest": lambda row: (row["closest"], row["id"]),
    "name": lambda row: (row["name"] is None, (row["name"] or "").casefold(), -row["faces"], row["id"]),
}
# maps the value of the menu `show` to the condition of the rows that the wall shows
SHOWN: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all": lambda row: True,
    "several": lambda row: row["faces"] > 1,
    "unnamed": lambda row: row["name"] is None,
    "doubtful": lambda row: row["doubtful"],
}


def read_view(dataset: Path) -> View:
    """Reads the ledger of a dataset. The connection is closed before the function returns."""
    with Ledger.open(dataset) as ledger:
        return View(ledger)
