"""Holds what the pages show in memory: people, faces and files. The ledger is read in one short connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Identity, Membership
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path

# The files of each photo that is in use. The first file in the order of the names stands for the photo.
_FILES = """SELECT photo_id, min(uri) AS uri, arg_min(sha256, uri) AS sha256 FROM files
            WHERE photo_id IS NOT NULL GROUP BY photo_id"""
_SPLITS = "SELECT identity_id, min(split) AS split FROM splits WHERE status = 'ok' GROUP BY identity_id"


@dataclass
class Person:
    """One person on the wall."""

    identity_id: str
    name: str | None = None
    locked: bool = False
    doubtful: bool = False
    split: str | None = None
    faces: set[str] = field(default_factory=set)  # ids of the faces that are in use


@dataclass(frozen=True)
class PhotoFile:
    """The file that stands for a photo."""

    uri: str
    sha256: str | None
    name: str  # the name of the file, as one printable line


class View:
    """The people and faces of a dataset at one time."""

    def __init__(self, ledger: Ledger) -> None:
        self.faces: dict[str, Face] = {face.face_id: face for face in ledger.read_rows(Face)}
        self.members: dict[str, Membership] = {row.face_id: row for row in ledger.read_rows(Membership)}
        self.person_of: dict[str, str] = {row.face_id: row.identity_id for row in self.members.values()}
        self.people: dict[str, Person] = {
            row.identity_id: Person(row.identity_id, row.name, row.locked, row.doubtful)
            for row in ledger.read_rows(Identity)
        }
        for face, person in self.person_of.items():
            self.people.setdefault(person, Person(person)).faces.add(face)
        for person, split in ledger.query(_SPLITS).iter_rows():
            if person in self.people:
                self.people[person].split = split
        self.copies: dict[str, list[str]] = defaultdict(list)  # representative -> its near-duplicates
        for one in self.faces.values():
            if one.duplicate_of is not None:
                self.copies[one.duplicate_of].append(one.face_id)
        self.file_of: dict[str, PhotoFile] = {
            photo: PhotoFile(uri, sha256, make_printable(display_path(uri).name))
            for photo, uri, sha256 in ledger.query(_FILES).iter_rows()
            if not uri.startswith("hmac:")
        }
        self._rows: dict[str, dict[str, Any]] = {}  # identity -> its row on the wall
        self._texts: dict[str, str] = {}  # identity -> the text that a search looks through

    def describe_person(self, identity_id: str) -> dict[str, Any]:
        """Returns the row of a person on the wall.

        `mean` is the mean confidence, `weakest` the least confidence, and `closest` the least margin of the faces.
        """
        row = self._rows.get(identity_id)
        if row is None:
            person = self.people[identity_id]
            members = [self.members[face] for face in person.faces if face in self.members]
            best = max(members, key=lambda member: (member.confidence, member.face_id), default=None)
            row = self._rows[identity_id] = {
                "id": identity_id,
                "name": person.name,
                "faces": len(person.faces),
                "locked": person.locked,
                "doubtful": person.doubtful,
                "split": person.split,
                "best": best.face_id if best else next(iter(sorted(person.faces)), None),
                "weakest": min((member.confidence for member in members), default=1.0),
                "closest": min((member.margin for member in members), default=1.0),
                "mean": sum(member.confidence for member in members) / len(members) if members else 1.0,
            }
        return row

    def list_people(self, search: str = "", order: str = "size", show: str = "all") -> list[dict[str, Any]]:
        """Returns the rows of the people that match a search, in an order of ORDERS.

        `show` is a key of SHOWN. A search finds names, file names, and the beginnings of ids.
        """
        is_shown = SHOWN[show]
        rows = [self.describe_person(person) for person in self.people if self.people[person].faces]
        rows = [
            row for row in rows if is_shown(row) and (not search or search.casefold() in self._find_text(row["id"]))
        ]
        return sorted(rows, key=ORDERS[order])

    def _find_text(self, identity_id: str) -> str:
        text = self._texts.get(identity_id)
        if text is None:
            person = self.people[identity_id]
            words = [person.name or "", identity_id]
            for face in sorted(person.faces):
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
