"""The same picture again: re-encoded, resized, recropped. One face stands for all; the others are marked, and stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import faiss
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from curate.config import DedupeRules
from manifests.records import Face, Photo

REASON = "near_duplicate"
_NEIGHBOURS = 32


def near_duplicates(
    faces: Sequence[Face], photos: Sequence[Photo], embeddings: np.ndarray, rules: DedupeRules
) -> list[Face]:
    """The rows as they should be: in each set of near-duplicates the largest face is kept (then the smallest id).

    `faces` are embedded faces that are ok or were dropped as near-duplicates before; `photos` their photos and
    `embeddings` float32 (n, d) unit rows in the same order. Answers every row, changed or not, in the same order.
    """
    n = len(faces)
    if n == 0:
        return []
    vectors = np.ascontiguousarray(embeddings, np.float32)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    cosine, near = index.search(vectors, min(_NEIGHBOURS, n))
    row, column = np.nonzero(cosine >= min(rules.min_cosine_same_photo, rules.min_cosine_same_face))
    other, alike = near[row, column], cosine[row, column]
    face_bits = _differing([face.phash for face in faces], row, other)
    photo_bits = _differing([photo.phash for photo in photos], row, other)
    same = (alike >= rules.min_cosine_same_photo) & (photo_bits <= rules.max_photo_bits)
    same &= _overlap(_places(faces, photos), row, other) >= rules.min_overlap_same_photo
    same |= (alike >= rules.min_cosine_same_face) & (face_bits <= rules.max_face_bits)
    photo_ids = np.array([face.photo_id for face in faces])
    same &= photo_ids[row] != photo_ids[other]  # twice in one photo is a collage or a mirror, not a copy
    graph = coo_matrix((np.ones(int(same.sum()), bool), (row[same], other[same])), shape=(n, n))
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
            rows.append(replace(face, status="dropped", reason=REASON, duplicate_of=keeper.face_id))
    return rows


def pictures(faces: Iterable[Face]) -> dict[str, str]:
    """photo -> the smallest of the photos that hold copies of each other's faces: the photos of one picture."""
    faces = list(faces)
    photo_of = {face.face_id: face.photo_id for face in faces}
    root = {photo: photo for photo in photo_of.values()}

    def find(photo: str) -> str:
        while root[photo] != photo:
            photo = root[photo]
        return photo

    for face in faces:
        if face.duplicate_of in photo_of:
            first, second = sorted((find(face.photo_id), find(photo_of[face.duplicate_of])))
            root[second] = first
    return {photo: find(photo) for photo in root}


def _differing(hashes: Sequence[str], row: np.ndarray, other: np.ndarray) -> np.ndarray:
    bits = np.array([np.frombuffer(bytes.fromhex(one), np.uint8) for one in hashes])
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
