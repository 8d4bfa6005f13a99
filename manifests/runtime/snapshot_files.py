"""Defines the names of the files of a snapshot. train/data/snapshot.py reads a snapshot, and a purge changes it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

VERSION = 5  # the version of the folder layout
FACTS = "snapshot.json"
FACES = "faces.arrow"  # An Arrow IPC file without compression, with a row for each face.
OLD_FACES = "faces.parquet"  # the table of faces before version 5
CROPS = "crops.npy"
LARGE_CROPS = "large_crops.npy"  # Crops at 512 px, for faces that are larger in their photo than in `crops.npy`.
VALID = "valid.npy"  # A bit for each pixel of a crop: 1 if the pixel comes from the photo.
EMBEDDINGS = "embeddings.npy"  # (n, d) float32 unit rows.
LANDMARKS = "landmarks.npy"  # (n, 5, 2) float32, pixels of the crops.
# this key of a snapshot's facts lists the snapshot's hash before each purge; the runs still name these hashes
BEFORE_PURGES = "before_purges"


def read_faces(path: Path) -> pa.Table:
    """Returns an Arrow IPC file as a table whose values stay in the file. Raises OSError or ValueError."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()
