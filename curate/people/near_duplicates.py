"""The same picture again: re-encoded, resized, recropped. One face stands for all; the others are marked, and stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import faiss
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from curate.config import CurateConfig, DedupeRules
from curate.faces.interface import FaceModels
from curate.people.clustering.neighbours import find_neighbours
from curate.people.links import find_dropped_faces
from manifests.ledger.decision_log import DROPPED_BY_DECISION, Decision, parse_decision
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, DecisionRow, Face, Photo

_NEIGHBOURS = 32
_PHOTOS_AT_ONCE = 64
_FACES_AT_ONCE = 2**16


def mark_near_duplicates(ledger: Ledger, config: CurateConfig, models: FaceModels) -> None:
    """Near-duplicates point to the face that stands for them; faces that a decision drops leave with their copies."""
    acts = [parse_decision(row) for row in ledger.read_rows(DecisionRow)]
    rules, changed = compute_near_duplicates(ledger, ledger.read_rows(Face), acts, config, models.same_person)
    ledger.record("dedupe", "all", rules, changed)


def compute_near_duplicates(
    ledger: Ledger, faces: Sequence[Face], acts: Sequence[Decision], config: CurateConfig, same_person: float
) -> tuple[DedupeRules, list[Face]]:
    """The rules and the rows of faces that change."""
    rules = replace(config.dedupe, min_cosine_same_face=max(config.dedupe.min_cosine_same_face, same_person))
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    faces = [
        face
        for face in faces
        if face.shard is not None and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION))
    ]
    _, vectors = ledger.read_embeddings([face.face_id for face in faces])
    rows = find_near_duplicates(faces, [photos[face.photo_id] for face in faces], vectors, rules)
    unwanted = find_dropped_faces(acts, rows)
    rows = [
        replace(row, status="dropped", reason=DROPPED_BY_DECISION, duplicate_of=None)
        if (row.duplicate_of or row.face_id) in unwanted
        else row
        for row in rows
    ]
    return rules, [row for row, face in zip(rows, faces, strict=True) if row != face]


def find_near_duplicates(
    faces: Sequence[Face], photos: Sequence[Photo], embeddings: np.ndarray, rules: DedupeRules
) -> list[Face]:
    """The rows as they should be: in each set of near-duplicates the largest face is kept (then the smallest id).

    `faces` are embedded faces that are ok or were dropped as near-duplicates before; `photos` their photos and
    `embeddings` float32 (n, d) unit rows in the same order. Answers every row, changed or not, in the same order.
    Beyond `neighbours.EXACT` faces a recropped copy may be missed; one of a whole photo is not.
    """
    n = len(faces)
    if n == 0:
        return []
    vectors = np.ascontiguousarray(embeddings, np.float32)
    least = min(rules.min_cosine_same_photo, rules.min_cosine_same_face)
    order = np.argsort([face.face_id for face in faces])
    near = find_neighbours(vectors, order, _NEIGHBOURS, least)
    place, column = np.nonzero((near.rows >= 0) & (near.cosines >= least))
    row, other, alike = order[place], order[near.rows[place, column]], near.cosines[place, column]
    face_bits = _differing([face.phash for face in faces], row, other)
    photo_bits = _differing([photo.phash for photo in photos], row, other)
    same = (alike >= rules.min_cosine_same_photo) & (photo_bits <= rules.max_photo_bits)
    same &= _overlap(_places(faces, photos), row, other) >= rules.min_overlap_same_photo
    same |= (alike >= rules.min_cosine_same_face) & (face_bits <= rules.max_face_bits)
    photo_ids = np.array([face.photo_id for face in faces])
    same &= photo_ids[row] != photo_ids[other]  # twice in one photo is a collage or a mirror, not a copy
    # a poor copy of a much photographed face may be less like it than `_NEIGHBOURS` others: its photo's hash finds it
    again, copy = _same_place_in_copies(faces, photos, vectors, rules)
    row, other = np.concatenate([row[same], again]), np.concatenate([other[same], copy])
    graph = coo_matrix((np.ones(len(row), bool), (row, other)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    stands: dict[int, Face] = {}
    for face, group in zip(faces, label, strict=True):
        best = stands.get(int(group))
        if best is None or (-face.inter_ocular_px, face.face_id) < (-best.inter_ocular_px, best.face_id):
            stands[int(group)] = face
    rows = []
    for face, group in zip(faces, label, strict=True):
        keeper = stands[int(group)]
        if keeper.face_id == face.face_id:
            rows.append(replace(face, status="ok", reason=None, duplicate_of=None))
        else:
            rows.append(replace(face, status="dropped", reason=NEAR_DUPLICATE, duplicate_of=keeper.face_id))
    return rows


def find_linked_photos(faces: Iterable[Face]) -> dict[str, str]:
    """photo -> the smallest of the photos that hold copies of each other's faces, through however many others."""
    faces = list(faces)
    photo_of = {face.face_id: face.photo_id for face in faces}
    links = [(face.photo_id, photo_of[face.duplicate_of]) for face in faces if face.duplicate_of in photo_of]
    return _joined(photo_of.values(), links)


def find_pictures(faces: Iterable[Face], photos: Mapping[str, Photo], max_bits: int) -> dict[str, str]:
    """photo -> the smallest of the photos that are one whole picture: they share a copy, and their hashes agree.

    A collage is another picture than the photos whose copies it holds, and they are not one picture through it.
    """
    faces = list(faces)
    copies: dict[str, set[str]] = defaultdict(set)
    for face in faces:
        copies[face.duplicate_of or face.face_id].add(face.photo_id)
    links = []
    for shared in copies.values():
        if len(shared) > 1:
            ordered = sorted(shared)
            bits = _bits([photos[photo].phash for photo in ordered])
            for i, first in enumerate(ordered):
                alike = np.bitwise_count(bits[i + 1 :] ^ bits[i]).sum(1) <= max_bits
                links += [(first, ordered[i + 1 + int(other)]) for other in np.flatnonzero(alike)]
    return _joined((face.photo_id for face in faces), links)


def _joined(photos: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    root = {photo: photo for photo in photos}

    def find(photo: str) -> str:
        while root[photo] != photo:
            photo = root[photo]
        return photo

    for one, other in links:
        first, second = sorted((find(one), find(other)))
        root[second] = first
    return {photo: find(photo) for photo in root}


def _same_place_in_copies(
    faces: Sequence[Face], photos: Sequence[Photo], vectors: np.ndarray, rules: DedupeRules
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of every two faces that are one by their photos' hashes, their place and their likeness."""
    _, first, of = np.unique([photo.photo_id for photo in photos], return_index=True, return_inverse=True)
    bits = _bits([photos[row].phash for row in first])
    index = faiss.IndexBinaryFlat(bits.shape[1] * 8)
    index.add(bits)
    order, count = np.argsort(of, kind="stable"), np.bincount(of)
    start = np.cumsum(count) - count
    places = _places(faces, photos)
    rows, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for begin in range(0, len(bits), _PHOTOS_AT_ONCE):
        limits, _, b = index.range_search(bits[begin : begin + _PHOTOS_AT_ONCE], rules.max_photo_bits + 1)
        found = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
        a = begin + np.repeat(np.arange(len(found)), found)
        a, b = a[a < b], b[a < b]
        # every face of photo a with every face of photo b
        total = count[a] * count[b]
        pair = np.repeat(np.arange(len(a)), total)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(total) - total, total)
        row, other = order[start[a[pair]] + nth // count[b[pair]]], order[start[b[pair]] + nth % count[b[pair]]]
        there = _overlap(places, row, other) >= rules.min_overlap_same_photo
        row, other = row[there], other[there]
        for here in range(0, len(row), _FACES_AT_ONCE):
            r, o = row[here : here + _FACES_AT_ONCE], other[here : here + _FACES_AT_ONCE]
            same = np.einsum("nd,nd->n", vectors[r], vectors[o]) >= rules.min_cosine_same_photo
            rows.append(r[same])
            others.append(o[same])
    return np.concatenate(rows), np.concatenate(others)


def _bits(hashes: Sequence[str]) -> np.ndarray:
    return np.array([np.frombuffer(bytes.fromhex(one), np.uint8) for one in hashes])


def _differing(hashes: Sequence[str], row: np.ndarray, other: np.ndarray) -> np.ndarray:
    bits = _bits(hashes)
    return np.bitwise_count(bits[row] ^ bits[other]).sum(1)


def _places(faces: Sequence[Face], photos: Sequence[Photo]) -> np.ndarray:
    """Boxes (n, 4) in units of their photo's width and height."""
    sides = np.array([(photo.width, photo.height) * 2 for photo in photos], np.float64)
    return np.array([face.box for face in faces], np.float64) / sides


def _overlap(boxes: np.ndarray, row: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4), pair by pair."""
    a, b = boxes[row], boxes[other]
    inner = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.clip(inner, 0, None).prod(1)
    areas = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(1) + np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1)
    return shared / np.maximum(areas - shared, 1e-12)
