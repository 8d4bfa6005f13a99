"""Finds the faces that are set aside: they are in no split, because their photo shows people of two splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from curate.imports.listed_faces import LISTED_ELSEWHERE
from manifests.ledger.records import Face, Split
from manifests.runtime.text import format_count

PHOTO_SPANS_SPLITS = "photo_spans_splits"


def find_faces_set_aside(
    faces: Sequence[Face], split_of: Mapping[str, str], listed_splits: Mapping[str, str]
) -> dict[str, str]:
    """Returns the reason of each face that is set aside.

    A face is set aside in two cases: an imported list puts the face into a different split than its person, or the
    photo of the face shows people of two splits. `split_of` maps each face with an identity to its split.
    `listed_splits` maps each listed face to its split in the list. `faces` are all faces with the status ok and all
    near-duplicates.
    """
    photo_of = {face.face_id: face.photo_id for face in faces}
    photo_splits = _find_photo_splits(faces, split_of)
    aside = {face: PHOTO_SPANS_SPLITS for face in split_of if len(photo_splits[photo_of[face]]) > 1}
    aside |= {face: LISTED_ELSEWHERE for face, split in split_of.items() if listed_splits.get(face, split) != split}
    # A photo may contain only near-duplicates, and their representatives may be in two splits. A second search finds
    # such photos.
    photo_splits = _find_photo_splits(faces, {face: split for face, split in split_of.items() if face not in aside})
    for face in faces:
        if len(photo_splits[face.photo_id]) > 1:
            aside.setdefault(face.representative, PHOTO_SPANS_SPLITS)
    return aside


def describe_faces_set_aside(rows: Sequence[Split], faces: Sequence[Face], frozen: bool, listed: bool) -> list[str]:
    """Returns a notice about the faces whose photo shows people of several splits, or an empty list.

    The notice names the cause, the two people in different splits who share the most photos, and what the user can do.
    `faces` are all faces with the status ok and all near-duplicates. `frozen` is True if frozen sets keep people in
    their splits. `listed` is True if an imported list names splits.
    """
    aside = {row.face_id for row in rows if row.reason == PHOTO_SPANS_SPLITS}
    if not aside:
        return []
    row_of = {row.face_id: row for row in rows}
    people: dict[str, set[tuple[str, str]]] = defaultdict(set)  # photo -> (identity, split) of its faces
    for face in faces:
        if face.representative in row_of:
            row = row_of[face.representative]
            people[face.photo_id].add((row.identity_id, row.split))
    pairs = Counter(
        (one, other) for shown in people.values() for one, other in combinations(sorted(shown), 2) if one[1] != other[1]
    )
    ((one, other), count) = min(pairs.items(), key=lambda item: (-item[1], item[0]))
    verb, shown = ("is", "its photo shows") if len(aside) == 1 else ("are", "their photos show")
    example = f"{one[0]} ({one[1]}) and {other[0]} ({other[1]}) share {format_count(count, 'photo')}"
    if frozen:
        cause = "People keep their splits because a frozen set exists."
        way_out = "In a new dataset, people who share photos go to the same split."
    elif listed:
        cause = "An imported list names splits."
        way_out = "Give people who share photos the same split in the list."
    else:
        cause = "Val and test must show other people than train."
        way_out = "--split-by photos sets no face aside, but then val and test show people of train."
    return [
        f"{format_count(len(aside), 'face')} {verb} set aside, because {shown} people of two splits. For "
        f"example, {example}. {cause} {way_out}"
    ]


def _find_photo_splits(faces: Sequence[Face], split_of: Mapping[str, str]) -> dict[str, set[str]]:
    """Returns photo_id -> splits of the people in the photo. A near-duplicate has the split of its representative."""
    splits: dict[str, set[str]] = defaultdict(set)
    for face in faces:
        if face.representative in split_of:
            splits[face.photo_id].add(split_of[face.representative])
    return splits
