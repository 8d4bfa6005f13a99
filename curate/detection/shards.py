"""Writes embeddings to DATASET/embeddings as .npy files, called shards. A shard's name is the sha256 of its bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.detection.reasons import NO_EMBEDDING
from curate.faces.interface import FaceModels, normalise_rows
from manifests.ledger.paths import shard_path
from manifests.ledger.records import Face, Photo, remove_embedding
from manifests.runtime.files import sha256_bytes, sha256_file, write_atomically


@dataclass(frozen=True)
class FaceBatch:
    """What a worker process returns for a batch of photos or faces."""

    rows: list[Photo | Face]
    failures: tuple[str, ...]  # Sentences for the user about failures of the device in this worker process.


def embed_and_write(
    dataset: Path, faces: Sequence[Face], chips: Sequence[np.ndarray], models: FaceModels
) -> list[Face]:
    """Embeds n faces from their crops, uint8 (size, size, 3) each, and writes the unit embeddings as one shard.

    Returns the ledger rows of the faces. The row of each embedded face names the shard and the device of the
    recognizer. If the recognizer has `embed_raw`, the row also contains the length of the embedding before the
    normalisation.

    A face fails with a reason if its embedding is not finite or is a zero vector. If all faces fail, no file is
    written.
    """
    if not faces:
        return []
    crops = np.stack(chips)
    if models.embed_raw is None:
        vectors = models.embed(crops)
    else:
        raw = np.asarray(models.embed_raw(crops), np.float32)
        lengths = np.linalg.norm(raw, axis=1).tolist()
        faces = [replace(face, embedding_norm=length) for face, length in zip(faces, lengths, strict=True)]
        vectors = normalise_rows(raw)
    # The device is read after the computation, because the CPU replaces a device that fails.
    return _write_shard(dataset, faces, vectors, models.device)


def _write_shard(dataset: Path, faces: Sequence[Face], vectors: np.ndarray, device: str) -> list[Face]:
    sound = np.isfinite(vectors).all(1) & (np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    rows = [fail_face(face, NO_EMBEDDING) for face, is_sound in zip(faces, sound, strict=True) if not is_sound]
    sound_faces = [face for face, is_sound in zip(faces, sound, strict=True) if is_sound]
    if sound_faces:
        buffer = io.BytesIO()
        np.save(buffer, vectors[sound].astype(np.float32))
        name = sha256_bytes(buffer.getvalue())
        write_atomically(shard_path(dataset, name), buffer.getvalue())
        rows += [
            replace(face, shard=name, shard_row=row, embedding_device=device) for row, face in enumerate(sound_faces)
        ]
    return rows


def find_intact_shards(dataset: Path, faces: Iterable[Face]) -> set[str]:
    """Returns the names of the shards that contain embeddings of `faces` and whose files are unchanged."""
    return {shard for shard in {face.shard for face in faces if face.shard is not None} if _is_intact(dataset, shard)}


def _is_intact(dataset: Path, shard: str) -> bool:
    try:
        return sha256_file(shard_path(dataset, shard)) == shard
    except OSError:
        return False


def remove_shards(dataset: Path, keep: set[str]) -> None:
    """Removes every shard whose name is not in `keep`, because no face uses such a shard."""
    for path in sorted((dataset / "embeddings").glob("*.npy")):
        if path.stem not in keep:
            path.unlink()


def fail_face(face: Face, reason: str) -> Face:
    """Returns the ledger row of a face that failed. The row has no embedding."""
    return replace(remove_embedding(face), status="failed", reason=reason, duplicate_of=None)
