"""Applies imported lists to the faces of a dataset. Finds the splits and makes the pairs that the lists name.

The ledger has one entry for each photo of the lists. The entry of a photo applies to the largest accepted face of the
photo. If the largest face is a near-duplicate, the entry applies to the representative of the largest face. Of several
near-duplicates, the representative is the face that is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from curate.photos.labelling.labels import label_faces
from manifests.ledger.label_faces import find_largest_faces
from manifests.ledger.records import Face, Label, ListEntry, Pair, Split

POLICY = "list"  # the recorded policy of a pair that comes from a list
LISTED_ELSEWHERE = "listed_in_another_split"


def find_listed_splits(lists: Iterable[ListEntry], faces: Sequence[Face]) -> tuple[dict[str, str], list[str]]:
    """Returns face_id -> the split from the lists, and notices about pictures whose copies are in several splits.

    `faces` are all faces with the status ok and all near-duplicates.
    """
    labels = [Label(row.photo_id, row.split, True) for row in lists if row.split is not None]
    split_of, notices = label_faces(labels, faces, {})
    return split_of, [f"The lists put copies of one picture into several splits: {notice}" for notice in notices]


def find_listed_faces(lists: Sequence[ListEntry], faces: Iterable[Face]) -> set[str]:
    """Returns the ids of the faces in all listed photos. Returns an empty set if the lists name no references.

    If the lists name references, the lists alone decide which faces of listed photos are targets.
    """
    if not any(row.refs is not None for row in lists):
        return set()
    photos = {row.photo_id for row in lists}
    return {face.representative for face in faces if face.photo_id in photos}


def make_listed_pairs(
    lists: Sequence[ListEntry],
    splits: Sequence[Split],
    faces: Sequence[Face],
    vectors: np.ndarray,
    picture_of: Mapping[str, str],
) -> tuple[list[Pair], Counter[str], Counter[str]]:
    """Returns the pairs from the lists, and counts of the targets and references that are left out.

    The pairs are sorted by target. The first counter has the number of targets without a pair, for each reason. The
    second counter has the number of references that are left out, for each reason. `faces` are all faces with the
    status ok and all near-duplicates. `vectors` are the unit embeddings of the faces with the status ok, (n, d), in the
    order of `faces`. `picture_of` maps a photo to the id of its picture. All copies of one photo have one picture.

    A reference is left out in three cases: the reference shows a different person than the target, the reference is in
    a split from which the target may not take references, or the reference comes from a copy of the target's picture.
    The lists decide the order and the number of references. The options --pairs, --min-references and --max-references
    have no effect on listed references.
    """
    photos = {row.photo_id for row in lists}
    face_of = {photo: face.representative for photo, face in find_largest_faces(photos, faces).items()}
    vector_row = {face: row for row, face in enumerate(face.face_id for face in faces if face.status == "ok")}
    picture = {face.face_id: picture_of.get(face.photo_id, face.photo_id) for face in faces}
    split_row = {row.face_id: row for row in splits}
    pairs: dict[str, Pair] = {}
    targets_left_out, references_left_out = Counter[str](), Counter[str]()

    def find_split_row(photo: str) -> Split | None:
        face = face_of.get(photo)
        return None if face is None else split_row.get(face)

    for row in lists:
        if row.refs is None:
            continue
        target = find_split_row(row.photo_id)
        if target is None or target.status != "ok":
            targets_left_out["listed_but_" + ("not_usable" if target is None else str(target.reason))] += 1
            continue
        if target.face_id in pairs:
            targets_left_out["listed_but_copy_of_another_target"] += 1
            continue
        allowed_split = "train" if target.policy == "photos" else target.split
        references: list[str] = []
        for photo in row.refs:
            reference = find_split_row(photo)
            if reference is None or reference.status != "ok":
                references_left_out["not_usable" if reference is None else str(reference.reason)] += 1
            elif reference.identity_id != target.identity_id:
                references_left_out["another_person"] += 1
            elif reference.split != allowed_split:
                references_left_out["another_split"] += 1
            elif picture[reference.face_id] == picture[target.face_id]:
                references_left_out["same_picture_as_its_target"] += 1
            elif reference.face_id in references:
                references_left_out["copy_of_another_reference"] += 1
            else:
                references.append(reference.face_id)
        if not references:
            targets_left_out["listed_but_no_reference_left"] += 1
            continue
        rows = [vector_row[reference] for reference in references]
        cosines = np.round(vectors[rows] @ vectors[vector_row[target.face_id]], 6).tolist()
        pairs[target.face_id] = Pair(target.face_id, tuple(references), tuple(cosines), POLICY, target.split)
    return [pairs[face] for face in sorted(pairs)], targets_left_out, references_left_out
