"""Chooses the references of each face of a photo, and explains the choice in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from curate.faces.comparison.turned_hashes import MIRRORED, count_different_bits, turn_hashes, unpack_hashes
from manifests.runtime.text import make_printable
from train.restore.decisions.outcomes import ReferenceUse
from train.restore.references.confirm_references import confirm_references, describe_cosine, describe_mismatch
from train.restore.references.reference_people import ReferencePerson, select_main_people
from train.restore.references.reference_photos import ReferenceFace, ReferencePhoto

# A reference is a near-duplicate of the photo if both show a face with a similar hash and a cosine of at least
# MIN_COSINE. Two hashes of 256 bits are similar if at most MAX_FACE_BITS bits differ, or MAX_MIRRORED_FACE_BITS bits
# for a mirrored copy. Both numbers are from DedupeRules in curate/config.py. MIN_COSINE (ours) is below the .80 of
# DedupeRules, because the photo can be a degraded copy of the reference.
MAX_FACE_BITS, MAX_MIRRORED_FACE_BITS = 54, 40
MIN_COSINE = 0.35

_MOST_NAMES = 4  # a sentence names at most this number of references


@dataclass(frozen=True)
class FaceInPhoto:
    """Holds the values of a face by which its references are chosen."""

    embedding: np.ndarray  # float32 (d,), unit length.
    phash: str  # See `curate.faces.measure.hash_face`.
    sharpness: float  # See `curate.faces.measure.measure_sharpness`.
    # A function that returns the unit embedding (d,) of the face after a restoration without references, or raises
    # NotRestoredYet. None if the restorer cannot restore without references.
    embed_restored: Callable[[], np.ndarray] | None


@dataclass(frozen=True)
class ReferenceChoice:
    """Holds the references of one face. `note` continues the sentence "The face was restored with 2 references"."""

    faces: tuple[ReferenceFace, ...] = ()
    uses: tuple[ReferenceUse, ...] = ()
    note: str = ""

    @property
    def similarity(self) -> float | None:
        """Returns the mean cosine of the references to the face, or None if there are no references."""
        return round(float(np.mean([use.cosine for use in self.uses])), 3) if self.uses else None

    def limit(self, most: int | None) -> ReferenceChoice:
        """Returns the choice with only the `most` references that are most like the face. None means no limit."""
        if most is None or len(self.uses) <= most:
            return self
        rows = sorted(range(len(self.uses)), key=lambda row: -self.uses[row].cosine)[:most]
        uses = tuple(self.uses[row] for row in rows)
        if most == 1:
            uses = (replace(uses[0], cosine_to_others=None),)
        count = "one reference" if most == 1 else f"{most} references"
        note = f", the most similar of {len(self.uses)}, because this restorer uses {count}{self.note}"
        return ReferenceChoice(tuple(self.faces[row] for row in rows), uses, note)

    def name_unwarped(self, leave_out: bool) -> ReferenceChoice:
        """Returns the choice with a `note` that names the references without points for the warp.

        If `leave_out` is True, these references are left out.
        """
        kept = [row for row, face in enumerate(self.faces) if face.landmarks is not None]
        if len(kept) == len(self.faces):
            return self
        missing = [self.uses[row].file.rsplit("/", 1)[-1] for row in range(len(self.faces)) if row not in kept]
        names = ", ".join(make_printable(name) for name in missing[:_MOST_NAMES])
        others = f" and {len(missing) - _MOST_NAMES} others" if len(missing) > _MOST_NAMES else ""
        was = f"{'was' if len(missing) == 1 else 'were'} {'left out' if leave_out else 'not warped'}"
        note = f"{self.note}; {names}{others} {was}, because the landmarks for the warp were not found"
        if not leave_out:
            return replace(self, note=note)
        return ReferenceChoice(tuple(self.faces[row] for row in kept), tuple(self.uses[row] for row in kept), note)

    def describe(self) -> str:
        """Returns a text like "with 2 references (a.jpg 0.61, b.jpg 0.55)" or "without references", and then the
        note."""
        if not self.uses:
            return f"without references{self.note}"
        names = ", ".join(
            f"{make_printable(use.file.rsplit('/', 1)[-1])} {use.cosine:.2f}" for use in self.uses[:_MOST_NAMES]
        )
        others = f" and {len(self.uses) - _MOST_NAMES} others" if len(self.uses) > _MOST_NAMES else ""
        count = f"{len(self.uses)} reference{'' if len(self.uses) == 1 else 's'}"
        return f"with {count} ({names}{others}){self.note}"


@dataclass(frozen=True)
class PhotoChoice:
    """Holds the references of each face of a photo, and a sentence for each copy of the photo that was left out."""

    faces: list[ReferenceChoice]
    notices: list[str] = field(default_factory=list)


def choose_references(
    faces: Sequence[FaceInPhoto],
    photo_sha256: str,
    people: Sequence[ReferencePerson],
    same_person: float,
    *,
    pointed: bool = False,
    trust: bool = False,
) -> PhotoChoice:
    """Returns the references of each face of a photo.

    A face gets the references of the person whose mean cosine to the face is highest, if this cosine is at least
    `same_person`. If no person's cosine is so high and the photo has only one face, the face gets the references of the
    main person in two cases: the user `pointed` at the face, or `confirm_references` confirms the references. With
    `trust`, the face that is most like the references gets all references, even if the cosines are low. A reference
    that is a copy of the photo is never used.

    Raises NotRestoredYet if the only face of a photo must first be restored without references.
    """
    people, notices = _leave_out_copies(faces, photo_sha256, people)
    if not people:
        reason = ", because every reference is a copy of the photo" if notices else ""
        return PhotoChoice([ReferenceChoice(note=reason) for _ in faces], notices)
    if trust:
        best = int(np.argmax([max(_mean_cosine(face, person) for person in people) for face in faces]))
        other = ReferenceChoice(note=", because the references are more like another face of the photo")
        return PhotoChoice([_trust_all(face, people) if i == best else other for i, face in enumerate(faces)], notices)
    alone = len(faces) == 1
    return PhotoChoice([_choose(face, people, same_person, alone, pointed) for face in faces], notices)


def _choose(
    face: FaceInPhoto, people: Sequence[ReferencePerson], same_person: float, alone: bool, pointed: bool
) -> ReferenceChoice:
    person = max(people, key=lambda one: _mean_cosine(face, one))
    cosine = _mean_cosine(face, person)
    if cosine >= same_person:
        return _use(face, person)
    main = max(select_main_people(people), key=lambda one: _mean_cosine(face, one))
    if alone and pointed:
        return _use(face, main)
    if not alone:
        return ReferenceChoice(note=describe_mismatch(describe_cosine(_mean_cosine(face, main), same_person)))
    decision = confirm_references(face.embedding, face.sharpness, main.embeddings, same_person, face.embed_restored)
    if decision.confirmed:
        return _use(face, main, decision.note)
    return ReferenceChoice(note=f"{decision.note}; if the references show this person, give --trust-references")


def _use(face: FaceInPhoto, person: ReferencePerson, note: str = "") -> ReferenceChoice:
    embeddings = person.embeddings
    cosines, among = embeddings @ face.embedding, embeddings @ embeddings.T
    count = len(embeddings)
    uses = [
        ReferenceUse(
            str(photo.path),
            round(float(cosines[row]), 3),
            round(float((among[row].sum() - among[row, row]) / (count - 1)), 3) if count > 1 else None,
            used.box if len(photo.faces) > 1 else None,
            photo.sha256,
        )
        for row, (photo, used) in enumerate(zip(person.photos, person.faces, strict=True))
    ]
    return ReferenceChoice(person.faces, tuple(uses), note)


def _trust_all(face: FaceInPhoto, people: Sequence[ReferencePerson]) -> ReferenceChoice:
    """Returns a choice with all references. From each reference, the face that is most like `face` is used."""
    photos = {id(photo): photo for person in people for photo in person.photos}
    best = [max(photo.faces, key=lambda one: float(one.embedding @ face.embedding)) for photo in photos.values()]
    return _use(face, ReferencePerson(tuple(photos.values()), tuple(best)))


def _leave_out_copies(
    faces: Sequence[FaceInPhoto], photo_sha256: str, people: Sequence[ReferencePerson]
) -> tuple[list[ReferencePerson], list[str]]:
    """Returns the people without references that are copies of the photo, and a sentence for each such copy."""
    reasons: dict[int, str] = {}
    for photo in {id(photo): photo for person in people for photo in person.photos}.values():
        name = make_printable(photo.path)
        if photo.sha256 == photo_sha256:
            reasons[id(photo)] = f"The reference {name} was left out, because it is the same file as the photo."
        elif _is_copy(photo, faces):
            reasons[id(photo)] = (
                f"The reference {name} was left out, because it is a near-duplicate of the photo: it shows the same "
                "picture."
            )
    left = [person.select([id(photo) not in reasons for photo in person.photos]) for person in people]
    left = sorted((person for person in left if person.photos), key=lambda person: -len(person.photos))
    return left, list(reasons.values())


def _is_copy(photo: ReferencePhoto, faces: Sequence[FaceInPhoto]) -> bool:
    return any(
        _have_similar_hashes(face.phash, own.phash) and float(face.embedding @ own.embedding) >= MIN_COSINE
        for face in faces
        for own in photo.faces
    )


def _have_similar_hashes(one: str, other: str) -> bool:
    """Returns whether the hashes of two aligned faces are similar, or become similar if one face is mirrored."""
    a, b = unpack_hashes([one]), unpack_hashes([other])
    return bool(
        (count_different_bits(a, b) <= MAX_FACE_BITS)
        | (count_different_bits(a, turn_hashes(b, MIRRORED)) <= MAX_MIRRORED_FACE_BITS)
    )


def _mean_cosine(face: FaceInPhoto, person: ReferencePerson) -> float:
    return float((person.embeddings @ face.embedding).mean())
