"""The stage `dedupe`: finds faces of one picture that was saved again, resized or cropped differently.

One face of each set of near-duplicates is used, and this face is the representative. The other faces stay in the ledger
with the reason `near_duplicate`, and their `duplicate_of` names the representative.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import faiss
import numpy as np

from curate.config import CurateConfig, DedupeRules
from curate.faces.interface import FaceModels
from curate.people.clustering.components import label_components
from curate.people.clustering.neighbours import find_neighbours
from curate.people.collages import find_repeated_frames, find_repeating_photos
from curate.people.links import find_dropped_faces
from manifests.ledger.decision_log import DROPPED_BY_DECISION, Decision, read_decisions
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face, Photo

_NEIGHBOURS = 32  # number of nearest faces with which each face is compared
_PHOTOS_AT_ONCE = 64  # number of photos in one step; limits the memory
_PAIRS_AT_ONCE = 2**16  # number of pairs of faces in one step; limits the memory


def mark_near_duplicates(ledger: Ledger, config: CurateConfig, models: FaceModels) -> None:
    """Records which faces are near-duplicates, and which faces are dropped by decisions."""
    decisions = read_decisions(ledger)
    rules, changes = compute_near_duplicates(ledger, ledger.read_rows(Face), decisions, config, models.same_person)
    ledger.record("dedupe", "all", rules, changes)


def compute_near_duplicates(
    ledger: Ledger, faces: Sequence[Face], decisions: Sequence[Decision], config: CurateConfig, same_person: float
) -> tuple[DedupeRules, list[Face]]:
    """Returns the rules that were used, and the new row of each face whose row changes. Nothing is written.

    `same_person` is the recognizer's own lowest cosine for two faces of one person. Two recropped copies must have a
    cosine of `same_person` or more.
    """
    rules = replace(
        config.dedupe,
        min_cosine_same_face=max(config.dedupe.min_cosine_same_face, same_person),
        min_cosine_one_person=max(config.dedupe.min_cosine_one_person, same_person),
    )
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    faces = [
        face
        for face in faces
        if face.shard is not None and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION))
    ]
    _, vectors = ledger.read_embeddings([face.face_id for face in faces])
    rows = find_near_duplicates(faces, [photos[face.photo_id] for face in faces], vectors, rules)
    dropped_ids = find_dropped_faces(decisions, rows)
    rows = [
        replace(row, status="dropped", reason=DROPPED_BY_DECISION, duplicate_of=None)
        if row.representative in dropped_ids
        else row
        for row in rows
    ]
    return rules, [row for row, face in zip(rows, faces, strict=True) if row != face]


def select_usable_faces(faces: Iterable[Face]) -> list[Face]:
    """Returns the faces that have the status ok or are near-duplicates."""
    return [face for face in faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]


def find_near_duplicates(
    faces: Sequence[Face], photos: Sequence[Photo], embeddings: np.ndarray, rules: DedupeRules
) -> list[Face]:
    """Returns the new row of every face, in the same order.

    The largest face of each set of near-duplicates is the representative. If several faces have the largest size, the
    face with the smallest id is the representative. A face of a photo that shows one person twice, for example a
    photo-booth strip, is a representative only if all copies are in such photos. Every face of `faces` has an
    embedding, and is ok, a near-duplicate, or dropped by a decision. `photos` are the photos of the faces. `embeddings`
    are the unit embeddings of the faces, float32 (n, d). The arguments `faces`, `photos` and `embeddings` have the same
    order. Copies of whole photos are always found. In collections of more than `neighbours.EXACT` faces, recropped
    copies may be missed.
    """
    n = len(faces)
    if n == 0:
        return []
    vectors = np.ascontiguousarray(embeddings, np.float32)
    min_cosine = min(rules.min_cosine_same_photo, rules.min_cosine_same_face)

    # Candidates are the pairs of near neighbours `row` and `other`, int (m,) each. Two faces show the same picture in
    # two cases. First case: the photos have similar hashes, the boxes overlap, and the embeddings are similar. Second
    # case: the aligned crops have similar hashes, and the embeddings are similar.
    order = np.argsort([face.face_id for face in faces])
    near = find_neighbours(vectors, order, _NEIGHBOURS, min_cosine)
    place, column = np.nonzero((near.rows >= 0) & (near.cosines >= min_cosine))
    row, other, cosine = order[place], order[near.rows[place, column]], near.cosines[place, column]
    face_bits = _count_different_bits([face.phash for face in faces], row, other)
    photo_bits = _count_different_bits([photo.phash for photo in photos], row, other)
    same = (cosine >= rules.min_cosine_same_photo) & (photo_bits <= rules.max_photo_bits)
    same &= _measure_overlaps(_scale_boxes(faces, photos), row, other) >= rules.min_overlap_same_photo
    same |= (cosine >= rules.min_cosine_same_face) & (face_bits <= rules.max_face_bits)
    photo_ids = np.array([face.photo_id for face in faces])
    # Two faces of one photo are copies only if they are one frame twice
    same &= photo_ids[row] != photo_ids[other]

    # If a person has many photos, a poor copy may not be among the _NEIGHBOURS nearest faces. A poor copy is therefore
    # also searched by the hash of its photo.
    first_rows, second_rows = _find_copies_by_photo(faces, photos, vectors, rules)
    pairs = np.stack([np.concatenate([row[same], first_rows]), np.concatenate([other[same], second_rows])], axis=1)
    pairs = np.concatenate([pairs, find_repeated_frames(faces, vectors, rules)])
    labels = label_components(n, pairs)

    # Find the representative of each connected set of faces, then make the new row of every face. A face of a photo
    # that shows one person twice does not stand for a face of another photo.
    repeating = find_repeating_photos(faces, vectors, rules.min_cosine_one_person)

    def rank(face: Face) -> tuple[bool, float, str]:
        return face.photo_id in repeating, -face.inter_ocular_px, face.face_id

    best: dict[int, Face] = {}
    for face, label in zip(faces, labels.tolist(), strict=True):
        if label not in best or rank(face) < rank(best[label]):
            best[label] = face
    rows = []
    for face, label in zip(faces, labels.tolist(), strict=True):
        if best[label].face_id == face.face_id:
            rows.append(replace(face, status="ok", reason=None, duplicate_of=None))
        else:
            rows.append(replace(face, status="dropped", reason=NEAR_DUPLICATE, duplicate_of=best[label].face_id))
    return rows


def find_linked_photos(faces: Iterable[Face]) -> dict[str, str]:
    """Returns photo_id -> the smallest photo_id among the photo and all photos that are linked to it.

    Two photos are linked if one photo contains a near-duplicate of a face in the other photo. Photos that are linked
    through other photos have the same smallest id.
    """
    faces = list(faces)
    photo_of = {face.face_id: face.photo_id for face in faces}
    links = [(face.photo_id, photo_of[face.duplicate_of]) for face in faces if face.duplicate_of in photo_of]
    return _find_smallest_linked(photo_of.values(), links)


def find_pictures(faces: Iterable[Face], photos: Mapping[str, Photo], max_bits: int) -> dict[str, str]:
    """Returns photo_id -> the smallest photo_id among the photos that show the same whole picture.

    Two photos show the same picture if they share a near-duplicate and their 64-bit hashes differ in at most `max_bits`
    bits. A collage and the photos that it contains are different pictures.
    """
    faces = list(faces)
    copies: dict[str, set[str]] = defaultdict(set)  # representative -> photos that contain this face or a copy of it
    for face in faces:
        copies[face.representative].add(face.photo_id)
    links = []
    for shared in copies.values():
        if len(shared) > 1:
            ordered = sorted(shared)
            bits = _unpack_hashes([photos[photo].phash for photo in ordered])
            for i, first in enumerate(ordered):
                same = np.bitwise_count(bits[i + 1 :] ^ bits[i]).sum(1) <= max_bits
                links += [(first, ordered[i + 1 + int(other)]) for other in np.flatnonzero(same)]
    return _find_smallest_linked((face.photo_id for face in faces), links)


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


def _find_copies_by_photo(
    faces: Sequence[Face], photos: Sequence[Photo], vectors: np.ndarray, rules: DedupeRules
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of rows that are the same face in two copies of one photo, two arrays int64 (m,).

    Two rows form a pair if the hashes of the photos agree, the boxes overlap enough, and the cosine is
    `min_cosine_same_photo` or more.
    """
    # For each distinct photo, find its first row, its hash as uint8 (photos, 8), and the rows of its faces as a slice
    # of `order`.
    _, first, of = np.unique([photo.photo_id for photo in photos], return_index=True, return_inverse=True)
    bits = _unpack_hashes([photos[row].phash for row in first])
    index = faiss.IndexBinaryFlat(bits.shape[1] * 8)
    index.add(bits)
    order, count = np.argsort(of, kind="stable"), np.bincount(of)
    start = np.cumsum(count) - count
    boxes = _scale_boxes(faces, photos)

    rows, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for begin in range(0, len(bits), _PHOTOS_AT_ONCE):
        # Find the pairs of photos a < b whose hashes differ in at most max_photo_bits bits. The radius is
        # max_photo_bits + 1, because range_search returns only distances below the radius.
        limits, _, b = index.range_search(bits[begin : begin + _PHOTOS_AT_ONCE], rules.max_photo_bits + 1)
        hits = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
        a = begin + np.repeat(np.arange(len(hits)), hits)
        a, b = a[a < b], b[a < b]

        # Combine every face of photo a with every face of photo b. `pair` is the number of the pair of photos, and
        # `nth` counts the combinations inside the pair.
        total = count[a] * count[b]
        pair = np.repeat(np.arange(len(a)), total)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(total) - total, total)
        row, other = order[start[a[pair]] + nth // count[b[pair]]], order[start[b[pair]] + nth % count[b[pair]]]
        same_place = _measure_overlaps(boxes, row, other) >= rules.min_overlap_same_photo
        row, other = row[same_place], other[same_place]
        for at in range(0, len(row), _PAIRS_AT_ONCE):
            r, o = row[at : at + _PAIRS_AT_ONCE], other[at : at + _PAIRS_AT_ONCE]
            same = np.einsum("nd,nd->n", vectors[r], vectors[o]) >= rules.min_cosine_same_photo
            rows.append(r[same])
            others.append(o[same])
    return np.concatenate(rows), np.concatenate(others)


def _unpack_hashes(hashes: Sequence[str]) -> np.ndarray:
    """Returns hexadecimal hashes of equal length as bytes, uint8 (n, bytes)."""
    return np.array([np.frombuffer(bytes.fromhex(one), np.uint8) for one in hashes])


def _count_different_bits(hashes: Sequence[str], row: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the number of bits in which the hashes of each pair of rows differ, (m,)."""
    bits = _unpack_hashes(hashes)
    return np.bitwise_count(bits[row] ^ bits[other]).sum(1)


def _scale_boxes(faces: Sequence[Face], photos: Sequence[Photo]) -> np.ndarray:
    """Returns the boxes as shares of the width and height of their photo, float64 (n, 4)."""
    sides = np.array([(photo.width, photo.height) * 2 for photo in photos], np.float64)
    return np.array([face.box for face in faces], np.float64) / sides


def _measure_overlaps(boxes: np.ndarray, row: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of each pair of boxes, (m,). `boxes` are float64 (n, 4)."""
    a, b = boxes[row], boxes[other]
    inner = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.clip(inner, 0, None).prod(1)
    areas = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(1) + np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1)
    return shared / np.maximum(areas - shared, 1e-12)
