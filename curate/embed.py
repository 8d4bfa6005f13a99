"""Accepted faces -> unit embeddings, a shard for each batch. Batches are fixed: a resumed run gives the same bits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from curate.detect import cached_models, read_crop
from curate.faces.align import recognition_crop
from manifests.records import Face
from manifests.storage import sha256_bytes, write_atomically

BATCH = 64
CROP_MISSING = "crop_missing"


def batches(faces: Sequence[Face]) -> list[list[Face]]:
    """Faces in order of id, BATCH at a time."""
    ordered = sorted(faces, key=lambda face: face.face_id)
    return [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]


def shard_name(batch: Sequence[Face]) -> str:
    """The same faces always share the same shard."""
    return sha256_bytes(" ".join(face.face_id for face in batch).encode())[:24]


def intact_shards(dataset: Path, faces: Sequence[Face]) -> set[str]:
    """The shards that can be read and hold every row that `faces` point to."""
    rows: dict[str, int] = {}
    for face in faces:
        if face.shard is not None and face.shard_row is not None:
            rows[face.shard] = max(rows.get(face.shard, 0), face.shard_row + 1)
    found = set()
    for shard, wanted in rows.items():
        try:
            if len(np.load(_shard_path(dataset, shard), mmap_mode="r")) >= wanted:
                found.add(shard)
        except (OSError, ValueError, EOFError):
            continue
    return found


def remove_shards(dataset: Path, but: set[str | None]) -> None:
    """Remove the shards that no face points to, once their faces were embedded anew."""
    for path in sorted((dataset / "embeddings").glob("*.npy")):
        if path.stem not in but:
            path.unlink()


def _shard_path(dataset: Path, shard: str) -> Path:
    return dataset / "embeddings" / f"{shard}.npy"


def embed_batch(batch: Sequence[Face], faces: str, dataset: Path) -> list[Face]:
    """Embed one batch from its crops, write the shard, and return the rows that point into it.

    A face whose crop is gone, or whose embedding is not finite, fails with a reason.
    """
    models = cached_models(faces)
    crops: list[np.ndarray] = []
    kept: list[Face] = []
    rows: list[Face] = []
    for face in batch:
        try:
            crops.append(recognition_crop(read_crop(dataset, face.face_id), models.template, models.size))
            kept.append(face)
        except (OSError, ValueError):
            rows.append(replace(face, status="failed", reason=CROP_MISSING, duplicate_of=None))
    vectors = models.embed(np.stack(crops)) if crops else np.zeros((0, models.dim), np.float32)
    name = shard_name(batch)
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(np.float32))
    write_atomically(_shard_path(dataset, name), buffer.getvalue())
    for row, (face, vector) in enumerate(zip(kept, vectors, strict=True)):
        if np.isfinite(vector).all() and np.abs(np.linalg.norm(vector) - 1) < 1e-3:
            rows.append(replace(face, shard=name, shard_row=row))
        else:
            rows.append(replace(face, status="failed", reason="no_embedding", duplicate_of=None))
    return rows
