"""Unit embeddings in shards: of the faces of a batch of photos as they are found, and later of those that have none.

Batches are fixed and a face's bits do not depend on its batch: a resumed run gives the same bytes.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from curate.detection.crops import read_crop
from curate.faces.align import crop_for_recognizer
from curate.faces.load import load_faces_once
from manifests.ledger.paths import shard_path
from manifests.ledger.records import Face
from manifests.runtime.files import ARRAY_ERRORS, sha256_bytes, sha256_file, write_atomically

BATCH = 64
CROP_MISSING = "crop_missing"
SHA256 = 64  # hex digits; shards of an older Likeness have shorter names, which say nothing of the content


def batches(faces: Sequence[Face]) -> list[list[Face]]:
    """Faces of a lost shard together in the order they had, the others in order of id, BATCH at a time."""
    ordered = sorted(faces, key=lambda face: face.face_id)
    new = [face for face in ordered if face.shard is None]
    lost: dict[str, list[Face]] = defaultdict(list)
    for face in sorted((face for face in ordered if face.shard is not None), key=lambda face: face.shard_row or 0):
        lost[str(face.shard)].append(face)
    return [*(lost[shard] for shard in sorted(lost)), *(new[at : at + BATCH] for at in range(0, len(new), BATCH))]


def unit_name(batch: Sequence[Face]) -> str:
    """The same faces are always the same unit."""
    return sha256_bytes(" ".join(face.face_id for face in batch).encode())[:24]


def intact_shards(dataset: Path, faces: Sequence[Face]) -> set[str]:
    """The shards that hold what was written, or, of older datasets, can be read and have every row that is wanted."""
    rows: dict[str, int] = {}
    for face in faces:
        if face.shard is not None and face.shard_row is not None:
            rows[face.shard] = max(rows.get(face.shard, 0), face.shard_row + 1)
    found = set()
    for shard, wanted in rows.items():
        path = shard_path(dataset, shard)
        try:
            named = len(shard) == SHA256
            whole = sha256_file(path) == shard if named else len(np.load(path, mmap_mode="r")) >= wanted
        except ARRAY_ERRORS:
            continue
        if whole:
            found.add(shard)
    return found


def named_by_content(dataset: Path, faces: Sequence[Face]) -> list[Face]:
    """Faces whose shard has a name of an older Likeness, pointing to a copy that is named by its sha256."""
    new: dict[str, str] = {}
    for shard in sorted({str(face.shard) for face in faces}):
        data = shard_path(dataset, shard).read_bytes()
        new[shard] = sha256_bytes(data)
        write_atomically(shard_path(dataset, new[shard]), data)
    return [replace(face, shard=new[str(face.shard)]) for face in faces]


def remove_shards(dataset: Path, but: set[str | None]) -> None:
    """Remove the shards that no face points to, once their faces were embedded anew."""
    for path in sorted((dataset / "embeddings").glob("*.npy")):
        if path.stem not in but:
            path.unlink()


def embed_batch(batch: Sequence[Face], faces: str, dataset: Path) -> list[Face]:
    """Embed one batch from its crops, write the shard, and return the rows that point into it.

    A face whose crop is gone, or whose embedding is not finite, fails with a reason.
    """
    models = load_faces_once(faces)
    crops: list[np.ndarray] = []
    kept: list[Face] = []
    rows: list[Face] = []
    for face in batch:
        try:
            crops.append(crop_for_recognizer(read_crop(dataset, face.face_id), models.template, models.size))
            kept.append(face)
        except (OSError, ValueError):
            rows.append(_failed(face, CROP_MISSING))
    return rows + write_shard(dataset, kept, models.embed(np.stack(crops)) if crops else np.zeros((0, models.dim)))


def write_shard(dataset: Path, faces: Sequence[Face], vectors: np.ndarray) -> list[Face]:
    """The faces' rows, pointing into the shard that holds their `vectors` (n, d); no shard where there is none.

    A face whose vector is not finite or has no length fails with a reason.
    """
    sound = np.isfinite(vectors).all(1) & (np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    rows = [_failed(face, "no_embedding") for face, whole in zip(faces, sound, strict=True) if not whole]
    kept = [face for face, whole in zip(faces, sound, strict=True) if whole]
    if kept:
        buffer = io.BytesIO()
        np.save(buffer, vectors[sound].astype(np.float32))
        name = sha256_bytes(buffer.getvalue())
        write_atomically(shard_path(dataset, name), buffer.getvalue())
        rows += [replace(face, shard=name, shard_row=row) for row, face in enumerate(kept)]
    return rows


def _failed(face: Face, reason: str) -> Face:
    return replace(face, status="failed", reason=reason, duplicate_of=None, shard=None, shard_row=None)
