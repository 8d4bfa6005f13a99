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

from curate.crops import read_crop
from curate.faces.align import recognition_crop
from curate.faces.models import cached_models
from manifests.records import Face
from manifests.storage import shard_name as name_of
from manifests.storage import shard_path, write_atomically

BATCH = 64
CROP_MISSING = "crop_missing"


def batches(faces: Sequence[Face]) -> list[list[Face]]:
    """Faces of a lost shard together in the order they had, the others in order of id, BATCH at a time."""
    ordered = sorted(faces, key=lambda face: face.face_id)
    new = [face for face in ordered if face.shard is None]
    lost: dict[str, list[Face]] = defaultdict(list)
    for face in sorted((face for face in ordered if face.shard is not None), key=lambda face: face.shard_row or 0):
        lost[str(face.shard)].append(face)
    return [*(lost[shard] for shard in sorted(lost)), *(new[at : at + BATCH] for at in range(0, len(new), BATCH))]


def shard_name(batch: Sequence[Face]) -> str:
    """The same faces always share the same shard."""
    return name_of(face.face_id for face in batch)


def intact_shards(dataset: Path, faces: Sequence[Face]) -> set[str]:
    """The shards that can be read and hold every row that `faces` point to."""
    rows: dict[str, int] = {}
    for face in faces:
        if face.shard is not None and face.shard_row is not None:
            rows[face.shard] = max(rows.get(face.shard, 0), face.shard_row + 1)
    found = set()
    for shard, wanted in rows.items():
        try:
            if len(np.load(shard_path(dataset, shard), mmap_mode="r")) >= wanted:
                found.add(shard)
        except (OSError, ValueError, EOFError):
            continue
    return found


def remove_shards(dataset: Path, but: set[str | None]) -> None:
    """Remove the shards that no face points to, once their faces were embedded anew."""
    for path in sorted((dataset / "embeddings").glob("*.npy")):
        if path.stem not in but:
            path.unlink()


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
        name = shard_name(kept)
        buffer = io.BytesIO()
        np.save(buffer, vectors[sound].astype(np.float32))
        write_atomically(shard_path(dataset, name), buffer.getvalue())
        rows += [replace(face, shard=name, shard_row=row) for row, face in enumerate(kept)]
    return rows


def _failed(face: Face, reason: str) -> Face:
    return replace(face, status="failed", reason=reason, duplicate_of=None, shard=None, shard_row=None)
