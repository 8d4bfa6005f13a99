"""Finds the people in the references. The main person is the person who is in the most references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from manifests.runtime.text import format_count, make_printable
from train.restore.references.reference_photos import ReferenceFace, ReferencePhoto


@dataclass(frozen=True)
class ReferencePerson:
    """Holds the references that show one person: the photos, and the face of the person in each photo."""

    photos: tuple[ReferencePhoto, ...]
    faces: tuple[ReferenceFace, ...]

    @property
    def embeddings(self) -> np.ndarray:
        """Returns the embeddings of the faces, float32 (K, d)."""
        return np.stack([face.embedding for face in self.faces])

    def select(self, keep: Sequence[bool]) -> ReferencePerson:
        """Returns the person with only the photos for which `keep` is True."""
        rows = [row for row, kept in enumerate(keep) if kept]
        return ReferencePerson(tuple(self.photos[row] for row in rows), tuple(self.faces[row] for row in rows))


def find_people(photos: Sequence[ReferencePhoto], same_person: float) -> list[ReferencePerson]:
    """Returns the people in the references. The person who is in the most photos comes first.

    All faces of all photos are grouped by average linkage: two groups are joined if the mean cosine between them is at
    least `same_person`. If a photo shows a person twice, only the face that is most like the person's other faces is
    kept. The order of the photos does not change the groups. People who are in only one photo are returned too.
    """
    owners = [(photo, face) for photo in photos for face in photo.faces]
    if not owners:
        return []
    embeddings = np.stack([face.embedding for _, face in owners]).astype(np.float64)
    cosines = embeddings @ embeddings.T
    labels = np.ones(len(owners), np.int64)
    if len(owners) > 1:
        distances = squareform(np.clip(1 - cosines, 0, 2), checks=False)
        labels = fcluster(linkage(distances, "average"), 1 - same_person + 1e-9, "distance")
    people = []
    for label in dict.fromkeys(labels.tolist()):  # in the order of the first face
        rows = np.flatnonzero(labels == label)
        best: dict[int, int] = {}  # maps a photo to the row of the person's face in it
        for row in rows[np.argsort(-cosines[np.ix_(rows, rows)].mean(1), kind="stable")].tolist():
            best.setdefault(id(owners[row][0]), row)
        chosen = sorted(best.values())
        people.append(ReferencePerson(tuple(owners[row][0] for row in chosen), tuple(owners[row][1] for row in chosen)))
    return sorted(people, key=lambda person: -len(person.photos))


def select_main_people(people: Sequence[ReferencePerson]) -> list[ReferencePerson]:
    """Returns the people who are in the most photos: one person, or several if they are in equally many photos."""
    return [person for person in people if len(person.photos) == len(people[0].photos)]


def describe_people(people: Sequence[ReferencePerson], same_person: float, trust: bool) -> list[str]:
    """Returns sentences for the user if the references show several people, or if a reference shows several faces."""
    if not people or trust:
        return []
    main, sentences = select_main_people(people), list[str]()
    needed = f"at least {same_person:.2f} needed"
    alone = [person for person in main if any(len(photo.faces) == 1 for photo in person.photos)]
    if len(main) > 1 and len(alone) > 1:
        sentences.append(
            f"The references show {len(main)} people, each in {format_count(len(main[0].photos), 'photo')}. Each face "
            "is restored with the references of the person that the face is most like."
        )
    in_main = {id(photo) for person in main for photo in person.photos}
    odd = {id(photo): photo for person in people for photo in person.photos if id(photo) not in in_main}
    for photo in odd.values():
        cosine = max(float((main[0].embeddings @ face.embedding).mean()) for face in photo.faces)
        sentences.append(
            f"The reference {make_printable(photo.path)} does not show the main person of the references (mean cosine "
            f"{cosine:.2f}, {needed}). The reference is used only for faces of the person that it shows. If all "
            "references show one person, give --trust-references."
        )
    for photo, face in zip(main[0].photos, main[0].faces, strict=True):
        if len(photo.faces) > 1 and len(main) == 1:
            corners = ",".join(f"{edge:.0f}" for edge in face.box)
            sentences.append(
                f"The reference {make_printable(photo.path)} shows {len(photo.faces)} faces. The face at {corners} is "
                "used, because it matches the other references."
            )
        elif len(photo.faces) > 1:
            sentences.append(
                f"The reference {make_printable(photo.path)} shows {len(photo.faces)} faces. The face that is most "
                "like the face in the photo is used."
            )
    return sentences
