"""What imported lists say, kept by photo in the ledger, as faces, splits and pairs of today.

A list speaks of a photo's largest accepted face; where that is a near-duplicate, of the face that stands for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from curate.photos.labels import label_faces, largest_faces
from manifests.ledger.records import Face, Label, ListEntry, Pair, Split

POLICY = "list"  # of a pair that a list names
LISTED_ELSEWHERE = "listed_in_another_split"


def given_labels(given: Iterable[ListEntry]) -> list[Label]:
    """Labels that are truth."""
    return [Label(row.photo_id, row.label, True) for row in given if row.label is not None]


def given_splits(given: Iterable[ListEntry], faces: Sequence[Face]) -> tuple[dict[str, str], list[str]]:
    """face -> the split that a list has it in, and what is to be told of copies listed in two splits.

    `faces` are those that are ok or near-duplicates.
    """
    said = [Label(row.photo_id, row.split, True) for row in given if row.split is not None]
    found, torn = label_faces(said, faces)
    return found, [f"Lists have copies of one picture in two splits: {notice}" for notice in torn]


def listed_faces(given: Sequence[ListEntry], faces: Iterable[Face]) -> set[str]:
    """Every face of the listed photos, where lists name references: it is a target by its list or not at all."""
    if not any(row.refs is not None for row in given):
        return set()
    photos = {row.photo_id for row in given}
    return {face.duplicate_of or face.face_id for face in faces if face.photo_id in photos}


def given_pairs(
    given: Sequence[ListEntry],
    splits: Sequence[Split],
    faces: Sequence[Face],
    vectors: np.ndarray,
    picture_of: Mapping[str, str],
) -> tuple[list[Pair], Counter[str], Counter[str]]:
    """The pairs that lists name, ordered by target; targets that are none and references left out, by reason.

    `faces` are all that are ok or near-duplicates, `vectors` the unit embeddings (n, d) of those that are ok, in order;
    `picture_of` maps a photo to the picture it is a copy of. A reference that a target may not have is left out: of
    another person, of a split that the target may not see, of the target's own picture. Order and number are the
    list's, whatever --pairs, --min-references and --max-references say.
    """
    listed = {row.photo_id for row in given}
    main = {photo: face.duplicate_of or face.face_id for photo, face in largest_faces(listed, faces).items()}
    row_of = {face: row for row, face in enumerate(face.face_id for face in faces if face.status == "ok")}
    picture = {face.face_id: picture_of.get(face.photo_id, face.photo_id) for face in faces}
    placed = {row.face_id: row for row in splits}
    found: dict[str, Pair] = {}
    unpaired, lost = Counter[str](), Counter[str]()
    for row in given:
        if row.refs is None:
            continue
        target = main.get(row.photo_id)
        at = placed.get(target) if target is not None else None
        if at is None or at.status != "ok":
            unpaired["listed_but_" + (str(at.reason) if at is not None else "not_usable")] += 1
            continue
        if at.face_id in found:
            unpaired["listed_but_copy_of_another_target"] += 1
            continue
        seen = "train" if at.policy == "photos" else at.split
        kept: list[str] = []
        for photo in row.refs:
            ref = main.get(photo)
            there = placed.get(ref) if ref is not None else None
            if there is None or there.status != "ok":
                lost["not_usable" if there is None else str(there.reason)] += 1
            elif there.identity_id != at.identity_id:
                lost["another_person"] += 1
            elif there.split != seen:
                lost["another_split"] += 1
            elif picture[there.face_id] == picture[at.face_id]:
                lost["same_picture_as_its_target"] += 1
            elif there.face_id in kept:
                lost["copy_of_another_reference"] += 1
            else:
                kept.append(there.face_id)
        if not kept:
            unpaired["listed_but_no_reference_left"] += 1
            continue
        cosines = np.round(vectors[[row_of[ref] for ref in kept]] @ vectors[row_of[at.face_id]], 6).tolist()
        found[at.face_id] = Pair(at.face_id, tuple(kept), tuple(cosines), POLICY, at.split)
    return [found[face] for face in sorted(found)], unpaired, lost
