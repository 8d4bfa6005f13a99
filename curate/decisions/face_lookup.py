"""Ids as a person says them -> faces as the log of decisions keeps them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from manifests.errors import BadInput
from manifests.ledger.decision_log import FaceFinder, FaceLocation
from manifests.ledger.records import Face, Membership

_PREFIX = 6  # characters that begin an id; fewer would name too much


class FaceLookup:
    """Ids as a person says them -> faces as the log keeps them."""

    def __init__(self, faces: Sequence[Face], memberships: Sequence[Membership]) -> None:
        self._face = {face.face_id: face for face in faces}
        self._finder = FaceFinder(faces)
        self._identity = {row.face_id: row.identity_id for row in memberships}
        self.members: dict[str, list[str]] = defaultdict(list)
        for row in memberships:
            self.members[row.identity_id].append(row.face_id)

    def known(self, word: object) -> str:
        """The identity or face id that `word` begins."""
        if not isinstance(word, str) or len(word) < _PREFIX:
            raise BadInput(f"{word!r} names nobody: say an identity's or a face's id, {_PREFIX} characters or more.")
        pool: Mapping[str, object] = self.members if word.startswith("p-") else self._face
        fits = [word] if word in pool else [name for name in pool if name.startswith(word)]
        if len(fits) != 1:
            what = "identity" if word.startswith("p-") else "face"
            none = "is no more (merged, or found again under another id)" if what == "identity" else "is not there"
            said = f"begins {len(fits)} ids: say more of it" if fits else none
            raise BadInput(f"The {what} {word} {said}; `likeness manifest why DATASET PHOTO` tells a photo's faces.")
        return fits[0]

    def faces(self, said: object, whole: bool = False) -> tuple[FaceLocation, ...]:
        """The faces that are named; with `whole`, an identity's id or a face's stand for all faces of the identity."""
        found: dict[FaceLocation, None] = {}
        for one in said if isinstance(said, list) else [said]:
            if isinstance(one, dict):
                found[read_face(one)] = None
                continue
            name = self.known(one)
            ids = self.members.get(name, [name])
            if whole and name not in self.members:
                ids = self.members[self.identity(self.named(name))]
            for face in ids:
                self.in_use(face)
                found[self.named(face)] = None
        if not found:
            raise BadInput("No face is named.")
        return tuple(found)

    def person(self, said: object) -> tuple[FaceLocation, ...]:
        """Who is meant: faces that were named, and as witnesses what else their identities hold."""
        found: dict[str | FaceLocation, FaceLocation] = {}
        for one in said if isinstance(said, list) else [said]:
            if isinstance(one, dict):
                found[read_face(one)] = read_face(one)
                continue
            name = self.known(one)
            if name not in self.members:
                self.in_use(name)
                found[name] = self.named(name)
            for face in self.members[self.identity(found[name]) if name in found else name]:
                if face != self.stands(name):
                    found.setdefault(face, replace(self.named(face), witness=True))
        if not found:
            raise BadInput("No face is named.")
        return single(found.values())

    def others(self, said: object, faces: Sequence[FaceLocation]) -> tuple[FaceLocation, ...]:
        """Whom `faces` are taken from, where that is said: those faces, or a person without `faces`."""
        dicts = isinstance(said, list) and all(isinstance(one, dict) for one in said)
        named = tuple(map(read_face, said)) if isinstance(said, list) and dicts else self.person(said)
        out = {self.today(one) for one in faces}
        return single(one for one in named if self.today(one) is None or self.today(one) not in out)

    def rest(self, faces: Sequence[FaceLocation], identity: str) -> tuple[FaceLocation, ...]:
        """The other faces of an identity, as witnesses."""
        out = {self.today(named) for named in faces}
        return single(replace(self.named(face), witness=True) for face in self.members[identity] if face not in out)

    def identity(self, named: FaceLocation) -> str:
        face = self.today(named)
        if face not in self._identity:
            raise BadInput(f"The face at {named.photo_id[:12]} {list(named.box)} belongs to nobody now.")
        return self._identity[face]

    def has_identity(self, named: FaceLocation) -> bool:
        return self.today(named) in self._identity

    def today(self, named: FaceLocation) -> str | None:
        """The face id that acts for it today."""
        face, _ = self._finder.find(named)
        return None if face is None else face.duplicate_of or face.face_id

    def stands(self, name: str) -> str:
        face = self._face.get(name)
        return name if face is None else face.duplicate_of or name

    def in_use(self, face_id: str) -> None:
        face = self._face[face_id]
        if face.status != "ok" and face.duplicate_of is None:
            raise BadInput(f"The face {face_id[:12]} is not in use ({face.reason}), so nothing can be decided on it.")

    def named(self, face_id: str) -> FaceLocation:
        face = self._face[face_id]
        x0, y0, x1, y1 = (round(float(side), 2) for side in face.box)
        return FaceLocation(face.photo_id, (x0, y0, x1, y1))


def single(faces: Iterable[FaceLocation]) -> tuple[FaceLocation, ...]:
    """A side of one face is named by naming its identity."""
    found = tuple(faces)
    return tuple(replace(face, witness=False) for face in found) if len(found) == 1 else found


def read_face(told: Mapping[str, Any]) -> FaceLocation:
    """A face as the log and the decisions file write it. Raises BadInput for anything else."""
    photo, box = told.get("photo"), told.get("box")
    if not isinstance(photo, str) or len(photo) != 64 or set(photo) - set("0123456789abcdef"):
        raise BadInput("a face's photo is the sha256 of its file, 64 hex digits.")
    # JSON has integers of any size, and what a float cannot hold is no pixel
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, int | float) and abs(x) < 1e9 for x in box):
        raise BadInput("a face's box is four numbers, x0, y0, x1, y1 in photo pixels.")
    if set(told) - {"photo", "box", "witness"} or not isinstance(told.get("witness", False), bool):
        raise BadInput("a face has photo, box and, where it is one, witness: true.")
    x0, y0, x1, y1 = map(float, box)
    return FaceLocation(photo, (x0, y0, x1, y1), told.get("witness", False))
