"""Where the files of a dataset lie."""

from __future__ import annotations

from pathlib import Path

LEDGER_NAME = "manifest.duckdb"
PARTS = ("faces", "embeddings", "lq", "versions")  # a dataset's folders, each file of which has a row
PENDING_NAME = "purge.pending"  # what a purge that has begun must finish
MAX_SEED = 2**63 - 1  # the ledger keeps seeds as BIGINT


def crop_path(dataset: Path, face_id: str) -> Path:
    """Where the 512 px crop of a face lies."""
    return dataset / "faces" / face_id[:2] / f"{face_id}.png"


def shard_path(dataset: Path, shard: str) -> Path:
    """Where a shard of embeddings lies; its name is the sha256 of the file."""
    return dataset / "embeddings" / f"{shard}.npy"
