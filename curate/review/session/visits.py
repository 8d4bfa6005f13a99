"""Remembers the person with whom the user last saw each face.

The review uses this record to find faces that joined a person later.

The file DATASET/review_visit.json maps the id of each seen person to the ids of the person's seen faces. A purge
removes the faces of a purged person from the file. A review that is open during the purge forgets these faces too. The
review also forgets the faces of photos that must not be used any more.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from manifests.ledger.paths import VISIT_NAME
from manifests.runtime.files import write_atomically


class Visit:
    """The faces that the user has seen, with their people at that time."""

    def __init__(self, dataset: Path, identity_of: Mapping[str, str]) -> None:
        """Reads the file. On the first visit, all faces of `identity_of` count as seen."""
        self._path = dataset / VISIT_NAME
        self.seen = _read(self._path)  # maps a face to the person with whom the user last saw the face
        if not self.seen:
            self.seen = dict(identity_of)

    def find_joined(self, identity_of: Mapping[str, str], by_decision: Iterable[str]) -> set[str]:
        """Returns the faces that joined a person of whom the user has seen a face.

        The faces in `by_decision` are left out, because a decision of the user put them into their person.
        """
        known = set(self.seen.values())
        joined = {face for face, person in identity_of.items() if self.seen.get(face) != person and person in known}
        return joined - set(by_decision)

    def mark_seen(self, identity_of: Mapping[str, str]) -> None:
        """Marks each face of `identity_of` as seen with its person."""
        self.seen.update(identity_of)

    def forget_all_but(self, faces: Container[str]) -> None:
        """Forgets all seen faces that are not in `faces`."""
        self.seen = {face: person for face, person in self.seen.items() if face in faces}

    def save(self) -> None:
        """Writes the file."""
        faces_of: dict[str, list[str]] = {}
        for face, person in sorted(self.seen.items()):
            faces_of.setdefault(person, []).append(face)
        write_atomically(self._path, json.dumps(faces_of).encode())


def _read(path: Path) -> dict[str, str]:
    """Returns a dict that maps a face to its person, or {} if the file is missing or broken."""
    try:
        content = json.loads(path.read_bytes())
        return {str(face): str(person) for person, faces in content.items() for face in faces}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
