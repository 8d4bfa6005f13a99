"""Accepted faces -> unit embeddings, one shard a batch. Batches are fixed units, so a resumed run gives the same bits."""

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


def batches(faces: Sequence[Face]) -> list[list[Face]]:
    """Faces in order of id, BATCH at a time."""
    ordered = sorted(faces, key=lambda face: face.face_id)
    return [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]


def shard_name(batch: Sequence[Face]) -> str:
    """The same faces always share the same shard."""
    return sha256_bytes(" ".join(face.face_id for face in batch).encode())[:24]


def embed_batch(batch: Sequence[Face], faces: str, dataset: Path) -> list[Face]:
    """Embed one batch from its crops, write the shard, and return the rows that point into it.

    A face whose crop is gone, or whose embedding is not finite, fails with a reason.
    """
    models = cached_models(faces)
    crops, rows = [], []
    kept: list[Face] = []
    for face in batch:
        try:
            crops.append(recognition_crop(read_crop(dataset, face.face_id), models.template, models.size))
            kept.append(face)
        except (OSError, ValueError, TypeError):
            rows.append(replace(face, status="failed", reason="crop_missing"))
    vectors = models.embed(np.stack(crops)) if crops else np.zeros((0, models.dim), np.float32)
    name = shard_name(batch)
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(np.float32))
    write_atomically(dataset / "embeddings" / f"{name}.npy", buffer.getvalue())
    for row, (face, vector) in enumerate(zip(kept, vectors, strict=True)):
        if np.isfinite(vector).all() and np.abs(np.linalg.norm(vector) - 1) < 1e-3:
            rows.append(replace(face, shard=name, shard_row=row))
        else:
            rows.append(replace(face, status="failed", reason="no_embedding"))
    return rows
