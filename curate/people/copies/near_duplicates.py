"""The stage `dedupe` finds near-duplicates: faces from copies of one picture.

A copy of a picture may be saved again, resized, cropped, framed, turned or mirrored.

The representative of a set of near-duplicates is the one face of the set that is used. All other faces of the set stay
in the ledger with the reason `near_duplicate`, and their `duplicate_of` names the representative.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from curate.config import CurateConfig, DedupeRules
from curate.faces.comparison.turned_hashes import VARIANTS, count_different_bits, turn_hashes, unpack_hashes
from curate.faces.interface import FaceModels
from curate.people.clustering.components import label_components
from curate.people.constraints.links import find_dropped_faces, find_preferred_faces
from curate.people.copies.collages import find_repeated_frames, find_repeating_photos
from curate.people.copies.earlier_sets import describe_search, read_earlier_sets, select_rows_to_search
from curate.people.copies.same_picture import find_copies
from curate.photos.history.file_history import FILE_REPLACED
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision, read_decisions
from manifests.ledger.ledger import Ledger
from manifests.ledger.original_copies import Copy, choose_original
from manifests.ledger.records import NEAR_DUPLICATE, Face, Photo


def mark_near_duplicates(ledger: Ledger, config: CurateConfig, models: FaceModels) -> None:
    """Records which faces are near-duplicates, and which faces are dropped by decisions."""
    decisions = read_decisions(ledger)
    all_faces = ledger.read_rows(Face)
    rules, changes = compute_near_duplicates(ledger, all_faces, decisions, config, models.same_person)
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    detail = describe_search(rules, _select_searched_faces(all_faces), photos)
    ledger.record("dedupe", "all", rules, changes, detail=detail)


def _select_searched_faces(faces: Iterable[Face]) -> list[Face]:
    return [
        face
        for face in faces
        if face.shard is not None and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION))
    ]


def compute_near_duplicates(
    ledger: Ledger, faces: Sequence[Face], decisions: Sequence[Decision], config: CurateConfig, same_person: float
) -> tuple[DedupeRules, list[Face]]:
    """Returns the rules that were used, and the new row of each face whose row changes. Nothing is written.

    If the last recorded search compared most of the faces, only the other faces are now compared with all faces
    (earlier_sets.py). `same_person` is `FaceModels.same_person` of the recognizer. Three minimum cosines of the rules
    are raised to `same_person` if they are lower (curate/config.py).
    """
    rules = replace(
        config.dedupe,
        min_cosine_same_face=max(config.dedupe.min_cosine_same_face, same_person),
        min_cosine_one_person=max(config.dedupe.min_cosine_one_person, same_person),
        min_cosine_to_register=max(config.dedupe.min_cosine_to_register, same_person),
    )
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    all_faces = faces
    faces = _select_searched_faces(all_faces)
    replaced = [face for face in all_faces if face.shard is not None and face.reason == FILE_REPLACED]
    _, vectors = ledger.read_embeddings([face.face_id for face in (*faces, *replaced)])
    preferred = find_preferred_faces(decisions, faces)
    photos_of_faces = [photos[face.photo_id] for face in faces]
    sets = read_earlier_sets(ledger, rules, faces, photos)
    rows = find_near_duplicates(faces, photos_of_faces, vectors[: len(faces)], rules, preferred, sets)
    successors = find_successors(rows, replaced, photos, vectors, rules)
    dropped_ids = find_dropped_faces(decisions, [*rows, *successors])
    rows = [
        replace(row, status="dropped", reason=DROPPED_BY_DECISION, duplicate_of=None)
        if row.representative in dropped_ids
        else row
        for row in rows
    ]
    rows += [replace(row, duplicate_of=None) if row.duplicate_of in dropped_ids else row for row in successors]
    return rules, [row for row, face in zip(rows, (*faces, *replaced), strict=True) if row != face]


def find_successors(
    rows: Sequence[Face],
    replaced: Sequence[Face],
    photos: Mapping[str, Photo],
    embeddings: np.ndarray,
    rules: DedupeRules,
) -> list[Face]:
    """Returns the rows of the faces `replaced`, whose files were overwritten, in the same order.

    If a face in use shows the picture of an overwritten face, `duplicate_of` in the row of the overwritten face names
    the face in use. The face in use then inherits the identity, the split and the decisions of the overwritten face.
    `rows` are the rows that `find_near_duplicates` returned. `embeddings` are the unit embeddings, first of `rows` and
    then of `replaced`, float32 (n, d).
    """
    if not replaced:
        return []
    faces = [*rows, *replaced]
    sets = np.full(len(faces), -1)
    sets[: len(rows)] = np.unique([row.representative for row in rows], return_inverse=True)[1]
    photos_of_faces = [photos[face.photo_id] for face in faces]
    together = find_near_duplicates(faces, photos_of_faces, embeddings, rules, sets=sets)
    successor_of: dict[str, str] = {}  # representative of a set that also contains replaced faces -> face in use
    for row, new in zip(rows, together, strict=False):
        best = successor_of.get(new.representative, row.representative)
        successor_of[new.representative] = min(best, row.representative)
    return [
        replace(face, duplicate_of=successor_of.get(new.representative))
        for face, new in zip(replaced, together[len(rows) :], strict=True)
    ]


def select_replaced_faces(faces: Iterable[Face]) -> list[Face]:
    """Returns the faces whose file was overwritten, if a face in use shows the same picture."""
    return [face for face in faces if face.reason == FILE_REPLACED and face.duplicate_of is not None]


def select_usable_faces(faces: Iterable[Face]) -> list[Face]:
    """Returns the faces that have the status ok or are near-duplicates."""
    return [face for face in faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]


def find_near_duplicates(
    faces: Sequence[Face],
    photos: Sequence[Photo],
    embeddings: np.ndarray,
    rules: DedupeRules,
    preferred: Sequence[str] = (),
    sets: np.ndarray | None = None,
) -> list[Face]:
    """Returns the new row of every face, in the order of `faces`.

    The original of each set of near-duplicates becomes the representative (manifests/ledger/original_copies.py). If a
    set contains a face of `preferred`, the last such face becomes the representative instead.

    Some photos show one person twice, for example photo-booth strips. A face in such a photo becomes a representative
    only if all its copies are also in such photos.

    Every face of `faces` has an embedding, and is ok, a near-duplicate, or dropped by a decision. `photos` are the
    photos of the faces. `embeddings` are the unit embeddings of the faces, float32 (n, d). The arguments `faces`,
    `photos` and `embeddings` have the same order. If `sets` contains the sets of an earlier search (earlier_sets.py),
    only some of the faces are searched. The result does not depend on `sets`.
    """
    if not len(faces):
        return []
    vectors = np.ascontiguousarray(embeddings, np.float32)
    labels = _label_sets(faces, photos, vectors, rules, sets)

    # Find the original of each connected set of faces, then make the new row of every face. If possible, the original
    # is not in a photo that shows one person twice.
    in_sets = np.bincount(labels)[labels] > 1
    photos_in_sets = {faces[row].photo_id for row in np.flatnonzero(in_sets).tolist()}
    compared = [row for row, face in enumerate(faces) if face.photo_id in photos_in_sets]
    repeating = find_repeating_photos([faces[row] for row in compared], vectors[compared], rules.min_cosine_one_person)
    rank = {face: place for place, face in enumerate(preferred)}  # a later decision has a higher rank
    members: dict[int, list[int]] = defaultdict(list)
    for number in np.flatnonzero(in_sets).tolist():
        members[int(labels[number])].append(number)
    rows = [
        face if face.status == "ok" else replace(face, status="ok", reason=None, duplicate_of=None) for face in faces
    ]
    for numbers in members.values():
        copies = [Copy(faces[number], photos[number], photos[number].photo_id in repeating) for number in numbers]
        original = max(numbers, key=lambda number: rank.get(faces[number].face_id, -1))
        if faces[original].face_id not in rank:
            original = numbers[choose_original(copies)[0]]
        for number in numbers:
            if number != original:
                stands_for_it = faces[original].face_id
                rows[number] = replace(
                    faces[number], status="dropped", reason=NEAR_DUPLICATE, duplicate_of=stands_for_it
                )
    return rows


def _label_sets(
    faces: Sequence[Face], photos: Sequence[Photo], vectors: np.ndarray, rules: DedupeRules, sets: np.ndarray | None
) -> np.ndarray:
    """Returns the number of the set of each face, int64 (n,). `find_near_duplicates` explains the arguments."""
    if sets is None:
        repeated = find_repeated_frames(faces, vectors, rules)
        return label_components(len(faces), np.concatenate([find_copies(faces, photos, vectors, rules), repeated]))
    searched = select_rows_to_search(faces, vectors, sets)
    repeated = searched[find_repeated_frames([faces[row] for row in searched.tolist()], vectors[searched], rules)]
    rest = np.setdiff1d(np.arange(len(faces)), searched)
    first, number = np.unique(sets[rest], return_index=True, return_inverse=True)[1:]
    earlier = np.stack([rest, rest[first[number]]], axis=1)
    copies = find_copies(faces, photos, vectors, rules, searched)
    return label_components(len(faces), np.concatenate([copies, repeated, earlier]))


def find_linked_photos(faces: Iterable[Face]) -> dict[str, str]:
    """Returns photo_id -> the smallest photo_id among the photo and all photos that are linked to it.

    Two photos are linked if one of them contains a near-duplicate of a face in the other photo. Links through other
    photos also count.
    """
    faces = list(faces)
    photo_of = {face.face_id: face.photo_id for face in faces}
    links = [(face.photo_id, photo_of[face.duplicate_of]) for face in faces if face.duplicate_of in photo_of]
    return _find_smallest_linked(photo_of.values(), links)


def find_pictures(faces: Iterable[Face], photos: Mapping[str, Photo], max_bits: int) -> dict[str, str]:
    """Returns photo_id -> the smallest photo_id among the photos that show the same whole picture.

    Two photos show the same picture if both contain copies of one face, and their 64-bit hashes differ in at most
    `max_bits` bits. The second photo may be turned or mirrored. A collage and the photos that it contains are different
    pictures.
    """
    faces = list(faces)
    copies: dict[str, set[str]] = defaultdict(set)  # representative -> photos that contain this face or a copy of it
    for face in faces:
        copies[face.representative].add(face.photo_id)
    links = []
    for shared in copies.values():
        if len(shared) > 1:
            ordered = sorted(shared)
            bits = unpack_hashes([photos[photo].phash for photo in ordered])
            for i, first in enumerate(ordered):
                rest = bits[i + 1 :]
                different = [
                    count_different_bits(turn_hashes(bits[i : i + 1], variant).repeat(len(rest), 0), rest)
                    for variant in VARIANTS
                ]
                same = np.min(different, axis=0) <= max_bits
                links += [(first, ordered[i + 1 + int(other)]) for other in np.flatnonzero(same)]
    return _find_smallest_linked((face.photo_id for face in faces), links)


def find_photos_with_copies(faces: Iterable[Face]) -> dict[str, set[str]]:
    """Returns photo_id -> the other photos that contain a near-duplicate of one of its faces.

    A photo has no entry if no other photo contains a copy of its faces. A collage is in the sets of the photos that it
    contains. Two photos in one collage are not in each other's sets.
    """
    photos_of: dict[str, set[str]] = defaultdict(set)  # representative -> photos that contain this face or a copy of it
    for face in faces:
        photos_of[face.representative].add(face.photo_id)
    others: dict[str, set[str]] = defaultdict(set)
    for photos in photos_of.values():
        for photo in photos if len(photos) > 1 else ():
            others[photo] |= photos - {photo}
    return dict(others)


def _find_smallest_linked(photos: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns photo_id -> the smallest photo_id of the photo's connected set, by union-find."""
    root = {photo: photo for photo in photos}

    def find_root(photo: str) -> str:
        while root[photo] != photo:
            photo = root[photo]
        return photo

    for one, other in links:
        first, second = sorted((find_root(one), find_root(other)))
        root[second] = first
    return {photo: find_root(photo) for photo in root}
