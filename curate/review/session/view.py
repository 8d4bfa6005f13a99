"""Keeps in memory what the pages show: people, faces and files. The ledger is read in one short connection.

The people are those after all recorded decisions, even after decisions that are not applied yet
(curate/people/pending/people_now.py). The numbers of a face, such as its confidence, come from the last grouping.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.decisions.record import Recorded, read_desk
from curate.decisions.settings import read_curation_settings
from curate.people.pending.people_now import Change
from curate.people.split.assigned import find_assigned_splits
from manifests.ledger.decisions.applied_decisions import count_unapplied_decisions
from manifests.ledger.decisions.decision_log import FaceLocation
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import is_curation_finished
from manifests.ledger.records import Face, Identity
from manifests.privacy.erase import ERASED_PHOTOS
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path

_FILES = """SELECT photo_id, uri, sha256 FROM files WHERE photo_id IS NOT NULL AND uri NOT LIKE 'hmac:%'
            ORDER BY photo_id, status <> 'ok', uri"""
_NUMBERS = "SELECT face_id, confidence, margin, source, worth FROM memberships"
_SPLITS = "SELECT face_id, split FROM splits WHERE status = 'ok'"


@dataclass(frozen=True)
class PhotoFile:
    """A file that contains a photo."""

    uri: str
    sha256: str | None

    @property
    def path(self) -> str:
        """The path of the file, as one printable line."""
        return make_printable(display_path(self.uri))

    @property
    def name(self) -> str:
        """The name of the file, as one printable line."""
        return make_printable(display_path(self.uri).name)


@dataclass(frozen=True)
class Numbers:
    """What the last grouping says about a face. The fields are columns of the table `memberships`."""

    confidence: float
    margin: float
    source: str
    worth: float | None


class View:
    """The people and faces of a dataset after all recorded decisions."""

    def __init__(self, ledger: Ledger) -> None:
        """Raises BadInput if no curation of the dataset has finished."""
        read_curation_settings(ledger)
        self.desk = read_desk(ledger, in_words=True)
        self.people = self.desk.people
        self.numbers = {row[0]: Numbers(*row[1:]) for row in ledger.query(_NUMBERS).iter_rows()}
        self.split_of: dict[str, str] = dict(ledger.query(_SPLITS).iter_rows())
        self.files: dict[str, list[PhotoFile]] = defaultdict(list)  # photo -> its files; the first file is in use
        for photo, uri, sha256 in ledger.query(_FILES).iter_rows():
            self.files[photo].append(PhotoFile(uri, sha256))
        self._erased: set[str] = set(ledger.query(ERASED_PHOTOS)["photo_id"])
        self._unused: set[str] = set(ledger.query("SELECT photo_id FROM photos WHERE status <> 'ok'")["photo_id"])
        # maps the number of a decision to a value that all decisions of one act or one command share
        self.batch_of: dict[int, object] = dict(ledger.query("SELECT decision_id, made FROM decisions").iter_rows())
        self.unapplied = count_unapplied_decisions(ledger)
        self.is_finished = is_curation_finished(ledger)
        # The embeddings of all faces. None until people/closeness.py reads them.
        self.embeddings: tuple[list[str], np.ndarray] | None = None
        self.joined: set[str] = set()  # The faces that joined a person since the last visit.
        self.moves: list[str] = []  # The faces that decisions may have moved since the ledger was read.
        # Maps the number of a decision to the parts of the decision that are in force, and to the faces in these parts.
        self._faces_of_decision: dict[int, tuple[list[tuple[FaceLocation, ...]], set[str]]] = {}
        self._rows: dict[str, dict[str, Any]] = {}  # Maps a person to the person's row on the page of all people.
        self._texts: dict[str, str] = {}  # Maps a person to the text that the search field searches.
        self._assigned: dict[str, str] | None = None  # Maps a person to the split that a decision chose.
        self._decided: set[str] | None = None  # The people that are named by a decision in force.

    def follow(self, recorded: Recorded) -> None:
        """Updates the view after decisions were recorded."""
        batch = object()
        for number, *_ in recorded.decisions:
            self.batch_of[number] = batch
        self.unapplied += len(recorded.decisions)
        self._decided = self._assigned = None
        self._rows = {person: row for person, row in self._rows.items() if not row["assigned"]}
        if recorded.change is not None:
            self.moves += [*recorded.change.owner, *recorded.change.left]
            self._forget(recorded.change)

    def _forget(self, change: Change) -> None:
        """Forgets the rows and texts of the people whom a change affects."""
        for person in self._find_assigned():
            self._rows.pop(person, None)
        for person in {*change.gone, *(row.identity_id for row in change.identities)}:
            self._rows.pop(person, None)
            self._texts.pop(person, None)

    # photos without consent

    @property
    def consents(self) -> Mapping[str, str | None]:
        """The consent of each photo, after all recorded decisions. None stands for an unknown consent."""
        return self.desk.photos.now

    def is_secret(self, photo_id: str) -> bool:
        """Returns whether no page may show a picture of the photo.

        The rule is that of SECRET_PHOTOS in manifests/privacy/erase.py.
        """
        consent = (self.consents.get(photo_id) or "").strip().lower()
        return photo_id in self._erased or not self.desk.photos.may_use(consent or None)

    def is_hidden(self, photo_id: str) -> bool:
        """Returns whether the pages of people show no picture of the photo.

        HIDDEN_PHOTOS (manifests/privacy/erase.py) contains the same rule in SQL.
        """
        return photo_id in self._unused or self.is_secret(photo_id)

    def may_show(self, face_id: str) -> bool:
        """Returns whether pictures of a face may be shown. Returns False for a face that the ledger does not have."""
        face = self.people.faces.get(face_id)
        return face is not None and not self.is_secret(face.photo_id)

    def mark_joined(self, faces: Iterable[str]) -> None:
        """Sets the faces that joined a person since the last visit."""
        self.joined = set(faces)
        self._rows.clear()

    # people

    def describe_person(self, identity: Identity) -> dict[str, Any]:
        """Returns the row of a person on the page of all people.

        In the row, `mean` is the mean confidence of the faces, `weakest` is the lowest confidence, and `closest` is the
        smallest margin.
        """
        row = self._rows.get(identity.identity_id)
        if row is None:
            faces = self.people.members[identity.identity_id]
            known = [face for face in faces if face in self.numbers]
            confidences = [self.numbers[face].confidence for face in known] or [1.0]
            best = max(known, key=lambda face: (self.numbers[face].confidence, face), default=faces[0])
            assigned = self._find_assigned().get(identity.identity_id)
            row = self._rows[identity.identity_id] = {
                "id": identity.identity_id,
                "name": identity.name,
                "faces": len(faces),
                "joined": sum(face in self.joined for face in faces),
                "locked": identity.locked,
                "doubtful": identity.doubtful,
                "assigned": assigned,
                "split": assigned or next((self.split_of[face] for face in faces if face in self.split_of), None),
                "best": best,
                "weakest": min(confidences),
                "closest": min((self.numbers[face].margin for face in known), default=1.0),
                "mean": sum(confidences) / len(confidences),
            }
        return row

    def find_person(self, identity_id: str) -> dict[str, Any] | None:
        """Returns the row of a person, or None if there is no such person now."""
        identity = self.people.identities.get(identity_id)
        if identity is None or not self.people.members.get(identity_id):
            return None
        return {**self.describe_person(identity), "decided": identity_id in self.find_decided_people()}

    def list_people(self, search: str = "", order: str = "size", show: str = "all") -> list[dict[str, Any]]:
        """Returns the rows of the people whom a search finds.

        `order` is a key of ORDERS, and `show` is a key of SHOWN. The search finds people whose names, file names or ids
        contain `search`.
        """
        is_shown, word, decided = SHOWN[show], search.casefold(), self.find_decided_people()
        rows = [self.describe_person(one) for one in self.people.identities.values() if self._has_faces(one)]
        rows = [row for row in rows if is_shown(row, decided) and (not word or word in self._find_text(row["id"]))]
        return sorted(rows, key=ORDERS[order])

    def find_decided_people(self) -> set[str]:
        """Returns the people that are named by a decision in force."""
        if self._decided is None:
            parts_of: dict[int, list[tuple[FaceLocation, ...]]] = defaultdict(list)
            for decision in select_active(self.people.log):
                if decision.kind != "accept":  # `accept` says nothing about a person
                    parts_of[decision.number] += decision.parts
            self._decided = set()
            for number, parts in parts_of.items():
                known, faces = self._faces_of_decision.get(number, ([], set()))
                if known != parts:  # a newer decision may have taken this decision back for some faces
                    found = (self.people.finder.find(place)[0] for part in parts for place in part)
                    faces = {face.face_id for face in found if face is not None}
                    self._faces_of_decision[number] = parts, faces
                self._decided |= {self.people.identity_of[face] for face in faces if face in self.people.identity_of}
        return self._decided

    def _find_assigned(self) -> dict[str, str]:
        if self._assigned is None:
            self._assigned = find_assigned_splits(self.people.log, self.people.finder, self.people.identity_of)
        return self._assigned

    def _has_faces(self, identity: Identity) -> bool:
        return bool(self.people.members.get(identity.identity_id))

    def _find_text(self, identity_id: str) -> str:
        text = self._texts.get(identity_id)
        if text is None:
            words = [self.people.identities[identity_id].name or "", identity_id]
            for face in self.people.members[identity_id]:
                words += [face, *(file.name for file in self.files.get(self.people.faces[face].photo_id, ())[:1])]
            text = self._texts[identity_id] = "\n".join(words).casefold()
        return text

    # faces

    def list_faces(
        self,
        identity_id: str,
        order: str = "typical",
        min_pixels: float = 0,
        min_sharpness: float = 0,
        joined: bool = False,
    ) -> list[str]:
        """Returns the faces of a person. `order` is a key of FACE_ORDERS.

        If `joined` is true, only the faces that joined the person since the last visit are returned.
        """
        faces = (self.people.faces[face] for face in self.people.members.get(identity_id, ()))
        chosen = [
            face
            for face in faces
            if measure_width(face) >= min_pixels
            and face.sharpness >= min_sharpness
            and (not joined or face.face_id in self.joined)
        ]
        sort = FACE_ORDERS[order]
        return [face.face_id for face in sorted(chosen, key=lambda face: (sort(self, face), face.face_id))]

    def describe_face(self, face_id: str) -> dict[str, Any]:
        """Returns the row of a face in the grid of a person."""
        face, numbers = self.people.faces[face_id], self.numbers.get(face_id)
        files = self.files.get(face.photo_id)
        return {
            "id": face_id,
            "pixels": round(measure_width(face)),
            "sharpness": round(face.sharpness, 3),
            "confidence": numbers.confidence if numbers else None,
            "margin": numbers.margin if numbers else None,
            "copies": len(self.people.find_copies(face_id)),
            "file": files[0].name if files else "",
            "joined": face_id in self.joined,
            "has_crop": face.crop_sha256 is not None,
        }


def measure_width(face: Face) -> float:
    """Returns the longer side of the box of a face, in pixels of the photo."""
    return max(face.box[2] - face.box[0], face.box[3] - face.box[1])


# maps the value of the menu `order` on the page of all people to the key that sorts the rows
ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "size": lambda row: (-row["faces"], row["id"]),
    "weakest": lambda row: (row["weakest"], row["id"]),
    "closest": lambda row: (row["closest"], row["id"]),
    "name": lambda row: (row["name"] is None, (row["name"] or "").casefold(), -row["faces"], row["id"]),
}
# maps the value of the menu `show` to a function that returns whether the page shows a row; the function also gets the
# people that are named by a decision
SHOWN: dict[str, Callable[[dict[str, Any], set[str]], bool]] = {
    "all": lambda row, decided: True,
    "several": lambda row, decided: row["faces"] > 1,
    "unnamed": lambda row, decided: row["name"] is None,
    "undecided": lambda row, decided: row["name"] is None and row["id"] not in decided,
    "doubtful": lambda row, decided: row["doubtful"],
    "joined": lambda row, decided: row["joined"] > 0,
}
# maps the value of the menu `order` on the page of a person to the number that sorts the faces
FACE_ORDERS: dict[str, Callable[[View, Face], float]] = {
    "typical": lambda view, face: view.numbers[face.face_id].confidence if face.face_id in view.numbers else -1.0,
    "margin": lambda view, face: view.numbers[face.face_id].margin if face.face_id in view.numbers else -1.0,
    "pixels": lambda view, face: -measure_width(face),
    "sharpness": lambda view, face: -face.sharpness,
}


def read_view(dataset: Path) -> View:
    """Reads the ledger of a dataset. The connection is closed before the function returns."""
    with Ledger.open(dataset) as ledger:
        return View(ledger)
