"""The paths of the files of a dataset."""

from __future__ import annotations

from pathlib import Path

LEDGER_NAME = "manifest.duckdb"
PARTS = ("faces", "embeddings", "lq", "versions")  # folders of a dataset; every file in them has a row in the ledger
PENDING_NAME = "purge.pending"  # the list of what an unfinished purge must still remove
MAX_SEED = 2**63 - 1  # the largest seed; a BIGINT column of the ledger holds it


def crop_path(dataset: Path, face_id: str) -> Path:
    """Returns the path of the 512 px crop of a face."""
    return dataset / "faces" / face_id[:2] / f"{face_id}.png"


def shard_path(dataset: Path, shard: str) -> Path:
    """Returns the path of a shard of embeddings. The name of a shard is the sha256 of the file."""
    return dataset / "embeddings" / f"{shard}.npy"
