"""Finds the faces that a request names.

A request is a line of the decision file, or the arguments of a command. A request names a face by an id, by the first
characters of an id, or by a location. A location is a photo and a box. The log of decisions stores each face as a
location. A witness is a face that belonged to a person at the time of a decision. A witness only shows which person the
decision means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from curate.decisions.accept import check_acceptable
from curate.decisions.lookup.name_decision import name_by_number, name_in_words
from curate.people.pending.people_now import PeopleNow
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision, FaceLocation
from manifests.ledger.decisions.face_finder import find_drops

MIN_PREFIX = 6  # smallest number of characters that name an id; fewer characters would match too many ids


class FaceLookup:
    """Finds the faces and identities that a request names. All recorded decisions count, also decisions that are not
    applied yet.
    """

    def __init__(
        self,
        people: PeopleNow,
        gone: Collection[str] = (),
        before: PeopleNow | None = None,
        in_words: bool = False,
    ) -> None:
        """`people` are the people among whom the lookup searches. A caller may change them.

        `gone` are the ids of the photos that no file contains. `before` are the people before a decision file. If a
        person does not exist any more after an earlier line of the file, a later line can still name the person's faces
        by the id of the person. If `in_words` is true, sentences for the user name a decision in words, and otherwise
        by its number.
        """
        self.people, self._gone, self._before, self.in_words = people, gone, before or people, in_words
        # faces that the previous lines of the file split from their people: face -> its person before the file
        self.taken_out: dict[str, str] = {}
        self._face, self._finder = people.faces, people.finder
        self._identity, self._members = people.identity_of, people.members

    def look_into(self, people: PeopleNow) -> FaceLookup:
        """Returns a lookup of `people`, a copy of `self.people` to which the caller applies the lines of a decision
        file.
        """
        return FaceLookup(people, self._gone, self.people, self.in_words)

    def name_decision(self, decision: Decision) -> str:
        """Returns the name of a decision for sentences that the user reads."""
        return name_in_words(decision, self.people) if self.in_words else name_by_number(decision)

    def complete_id(self, word: object) -> str:
        """Returns the full id of the identity or face whose id begins with `word`.

        Raises BadInput if no id, or more than one id, begins with `word`.
        """
        if not isinstance(word, str) or len(word) < MIN_PREFIX:
            raise BadInput(
                f"{word!r} is not an id. Give at least the first {MIN_PREFIX} characters of the id of a person or of "
                "a face."
            )
        is_person = word.startswith("p-")
        if is_person:
            matches = _find_ids(word, self._members) or _find_ids(word, self._before.members)
        else:
            matches = _find_ids(word, self._face)
        if len(matches) == 1:
            return matches[0]
        what = "person" if is_person else "face"
        help_text = "`likeness manifest why DATASET PHOTO` prints the ids of the faces and people in a photo."
        if matches:
            raise BadInput(f"{len(matches)} ids begin with {word}. Give more characters of the id. {help_text}")
        cause = " The person may have been merged, or may have another id now." if is_person else ""
        raise BadInput(f"There is no {what} with the id {word}.{cause} {help_text}")

    def find_faces(self, names: object, whole: bool = False, may_be_dropped: bool = False) -> tuple[FaceLocation, ...]:
        """Returns the locations of the named faces. The id of an identity names all faces of the identity.

        `names` is an id, a location, or a list of ids and locations. If `whole` is true, the id of a face names all
        faces of its identity. Raises BadInput if a name is unknown, or if a named face is not in use. If
        `may_be_dropped` is true, a face that a decision in force dropped is no error.
        """
        locations: dict[FaceLocation, None] = {}
        for full_id in self._read_names(names, locations):
            face_ids = self._list_members(full_id)
            if not face_ids:  # the id of a face
                face_ids = self._members[self.find_identity(self.locate(full_id))] if whole else [full_id]
            for face_id in face_ids:
                if not (may_be_dropped and self._is_dropped_by_name(face_id)):
                    self._check_in_use(face_id)
                locations[self.locate(face_id)] = None
        if not locations:
            raise BadInput("The decision names no face. Give the id of a face or of a person.")
        return tuple(locations)

    def _read_names(self, names: object, locations: dict[FaceLocation, None]) -> Iterator[str]:
        """Yields the whole id of each name. A name that is a location is added to `locations` instead."""
        for name in names if isinstance(names, list) else [names]:
            if isinstance(name, dict):
                locations[parse_location(name)] = None
            else:
                yield self.complete_id(name)

    def find_filtered_faces(self, names: object) -> tuple[FaceLocation, ...]:
        """Returns the locations of named faces that filters dropped. `names` has the same form as in `find_faces`.

        Raises BadInput if a named face cannot be accepted (see check_acceptable).
        """
        locations: dict[FaceLocation, None] = {}
        for full_id in self._read_names(names, locations):
            if full_id not in self._face:
                raise BadInput(f"The faces of the person {full_id} are in use already. Give a face that is not in use.")
            face = self._face[full_id]
            check_acceptable(face, self.people.log, face.photo_id not in self._gone, self.name_decision)
            locations[self.locate(full_id)] = None
        if not locations:
            raise BadInput("The decision names no face. Give the id of a face.")
        return tuple(locations)

    def find_person(self, names: object) -> tuple[FaceLocation, ...]:
        """Returns the locations of the named faces. Adds the other faces of the same identities as witnesses.

        `names` has the same form as in `find_faces`. If `names` contains an identity, all faces of this identity are
        witnesses.
        """
        locations: dict[str | FaceLocation, FaceLocation] = {}
        for name in names if isinstance(names, list) else [names]:
            if isinstance(name, dict):
                location = parse_location(name)
                locations[location] = location
                continue
            full_id = self.complete_id(name)
            if not self._list_members(full_id):
                self._check_in_use(full_id)
                locations[full_id] = self.locate(full_id)
            identity = self.find_identity(locations[full_id]) if full_id in locations else full_id
            for face_id in self._list_members(identity):
                if face_id != self._find_representative(full_id):
                    locations.setdefault(face_id, replace(self.locate(face_id), witness=True))
        if not locations:
            raise BadInput("The decision names no face. Give the id of a face or of a person.")
        return name_single_witness(locations.values())

    def find_rest(self, names: object, faces: Sequence[FaceLocation]) -> tuple[FaceLocation, ...]:
        """Returns the named faces that are not in `faces`. The decision separates the returned faces from `faces`.

        If `names` is a list of locations, only the faces at these locations are named. Otherwise, `names` also names
        the other faces of the same people, as in `find_person`.
        """
        if isinstance(names, list) and all(isinstance(name, dict) for name in names):
            locations = tuple(map(parse_location, names))
        else:
            locations = self.find_person(names)
        excluded = {self._find_today(face) for face in faces}
        return name_single_witness(
            location
            for location in locations
            if self._find_today(location) is None or self._find_today(location) not in excluded
        )

    def find_other_members(self, faces: Sequence[FaceLocation], identity: str) -> tuple[FaceLocation, ...]:
        """Returns the faces of an identity that are not in `faces`. Several returned faces are witnesses."""
        excluded = {self._find_today(face) for face in faces}
        return name_single_witness(
            replace(self.locate(face_id), witness=True)
            for face_id in self._members[identity]
            if face_id not in excluded
        )

    def _list_members(self, identity: str) -> Sequence[str]:
        """Returns the faces of a person. The list is empty for an id of a face."""
        if identity in self._members:
            return self._members[identity]
        return [face for face in self._before.members.get(identity, ()) if face in self._identity]

    def find_taken_out(self, faces: Sequence[FaceLocation]) -> tuple[FaceLocation, ...]:
        """Returns the faces of `taken_out` that belonged to a person of `faces` before the file was read.

        The returned faces are witnesses.
        """
        own = {self._find_today(face) for face in faces}
        people = {self._before.identity_of.get(str(face)) for face in own}
        found = (face for face, person in self.taken_out.items() if person in people and face not in own)
        return tuple(replace(self.locate(face), witness=True) for face in found)

    def add_taken_out(self, faces: Iterable[FaceLocation]) -> None:
        """Adds the faces that a split takes out of their person to `taken_out`."""
        own = {self._find_today(face) for face in faces}
        self.taken_out |= {
            str(face): self._before.identity_of[str(face)] for face in own if face in self._before.identity_of
        }

    def find_identity(self, location: FaceLocation) -> str:
        """Returns the identity of the face at a location.

        Raises BadInput if the location has no face with an identity.
        """
        face_id = self._find_today(location)
        if face_id not in self._identity:
            raise BadInput(
                f"The face at {list(location.box)} in photo {location.photo_id[:12]} belongs to no person now. Give a "
                "face that belongs to a person."
            )
        return self._identity[face_id]

    def has_identity(self, location: FaceLocation) -> bool:
        return self._find_today(location) in self._identity

    def find_copies(self, location: FaceLocation) -> tuple[FaceLocation, ...]:
        """Returns the near-duplicates of the face at a location. Copies that a filter or a decision drops are left
        out."""
        face, _ = self._finder.find(location)
        if face is None:
            return ()
        return tuple(
            self.locate(copy.face_id)
            for copy in self._face.values()
            if copy.representative == face.representative and copy.face_id != face.face_id
        )

    def locate(self, face_id: str) -> FaceLocation:
        """Returns the photo and the box of a face. The coordinates of the box are rounded to .01 pixels."""
        face = self._face[face_id]
        x0, y0, x1, y1 = (round(float(side), 2) for side in face.box)
        return FaceLocation(face.photo_id, (x0, y0, x1, y1))

    def _find_today(self, location: FaceLocation) -> str | None:
        """Returns the current representative of the face at a location, or None if the location has no face."""
        face, _ = self._finder.find(location)
        return None if face is None else face.representative

    def _find_representative(self, full_id: str) -> str:
        """Returns the id of the representative of a face. If `full_id` is the id of an identity, returns this id."""
        face = self._face.get(full_id)
        return full_id if face is None else face.representative

    def _is_dropped_by_name(self, face_id: str) -> bool:
        """Returns whether a decision in force dropped the face and names the face itself, not only a copy."""
        face = self._face[face_id]
        return face.reason == DROPPED_BY_DECISION and bool(find_drops(self.people.log, [face]))

    def _check_in_use(self, face_id: str) -> None:
        face = self._face[face_id]
        if face.status != "ok" and face.duplicate_of is None:
            undo = ", or undo its drop first" if face.reason == DROPPED_BY_DECISION else ""
            raise BadInput(f"The face {face_id[:12]} is not in use ({face.reason}). Leave this face out{undo}.")


def _find_ids(word: str, ids: Collection[str]) -> list[str]:
    """Returns `word` if it is one of the ids, otherwise the ids that begin with `word`."""
    return [word] if word in ids else [name for name in ids if name.startswith(word)]


def name_single_witness(faces: Iterable[FaceLocation]) -> tuple[FaceLocation, ...]:
    """Returns the faces as a tuple. If there is only one face, the returned face is not a witness."""
    locations = tuple(faces)
    return tuple(replace(face, witness=False) for face in locations) if len(locations) == 1 else locations


def merge_witnesses(rest: Sequence[FaceLocation], more: Sequence[FaceLocation]) -> tuple[FaceLocation, ...]:
    """Returns the faces of `rest` and `more`. If `more` is not empty, all faces are witnesses."""
    if not more:
        return tuple(rest)
    return tuple(dict.fromkeys(replace(face, witness=True) for face in (*rest, *more)))


def parse_location(line: Mapping[str, Any]) -> FaceLocation:
    """Returns the location that an object of the log or of a decision file describes.

    Raises BadInput if the object does not describe a location.
    """
    photo, box = line.get("photo"), line.get("box")
    if not isinstance(photo, str) or len(photo) != 64 or set(photo) - set("0123456789abcdef"):
        raise BadInput(f"photo is {photo!r}. Give the sha256 of the photo's file as 64 hexadecimal digits.")
    # JSON allows integers of any size. Numbers of 1e9 or more cannot be pixels, and very large integers do not fit into
    # a float.
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, int | float) and abs(x) < 1e9 for x in box):
        raise BadInput("The box of a face is wrong. Give four numbers x0, y0, x1, y1 in pixels of the photo.")
    if set(line) - {"photo", "box", "witness"} or not isinstance(line.get("witness", False), bool):
        raise BadInput(
            "The location of a face is wrong. Give the keys `photo` and `box`. The key `witness` is optional, and its "
            "value is true or false."
        )
    x0, y0, x1, y1 = map(float, box)
    return FaceLocation(photo, (x0, y0, x1, y1), line.get("witness", False))
