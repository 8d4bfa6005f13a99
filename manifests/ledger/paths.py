"""Returns the paths of the files of a dataset."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import LedgerMissing
from manifests.runtime.files import find_blocking_file
from manifests.stores.store_path import STORE_MARKER

LEDGER_NAME = "manifest.duckdb"
# A folder with one of these files is a dataset, or the copy of a dataset in a store. Commands that search a folder for
# photos do not read the files of such a folder. The reason is DATASET_FOLDER.
DATASET_FILES = {LEDGER_NAME, STORE_MARKER}
DATASET_FOLDER = "dataset_folder"
SPILL_NAME = f"{LEDGER_NAME}.tmp"  # DuckDB writes rows into this folder if they do not fit in memory.
# The folders of a dataset in which every file has a row in the ledger.
PARTS = ("faces", "embeddings", "lq", "versions")
MAPS = "map"  # This folder contains the map of faces that `likeness review` computes.
PENDING_NAME = "purge.pending"  # This file contains the plan of an unfinished purge.
THUMBNAILS = "thumbnails"  # This folder contains the thumbnails of `likeness review`.
VISIT_NAME = "review_visit.json"  # This file contains the faces that the user of `likeness review` has seen.
MAX_SEED = 2**63 - 1  # The largest seed that fits into a BIGINT column of the ledger.


def crop_path(dataset: Path, face_id: str) -> Path:
    """Returns the path of the 512 px crop of a face."""
    return dataset / "faces" / face_id[:2] / f"{face_id}.png"


def shard_path(dataset: Path, shard: str) -> Path:
    """Returns the path of a shard of embeddings. The name of a shard is the sha256 of its file."""
    return dataset / "embeddings" / f"{shard}.npy"


def check_ledger_exists(dataset: Path) -> None:
    """Raises LedgerMissing if `dataset` is a file, or a folder without a ledger.

    Commands call this function before slow imports, so that the user sees the error at once.
    """
    if (file := find_blocking_file(dataset)) is not None:
        raise LedgerMissing(f"{file} is a file, but a dataset is a folder: name another folder.")
    if not (dataset / LEDGER_NAME).exists():
        raise LedgerMissing(
            f"{dataset} contains no {LEDGER_NAME}: make a dataset with `likeness curate PHOTOS --out {dataset}`."
        )
