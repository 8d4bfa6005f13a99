"""Names the files of a snapshot, and reads its table of faces.

train/data/snapshot.py opens a snapshot for training, and manifests/privacy/snapshot_cleanup.py removes faces from it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
ROW_ARRAYS = (CROPS, VALID, EMBEDDINGS, LANDMARKS)  # the arrays with a row for each face
# this key of a snapshot's facts lists the snapshot's hash before each purge; the runs still name these hashes
BEFORE_PURGES = "before_purges"


def read_faces(path: Path) -> pa.Table:
    """Returns an Arrow IPC file as a table whose values stay in the file. Raises OSError or ValueError."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def to_array(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns a column of numbers without NULL. `to_numpy` of pyarrow would import pandas, which takes .3 s."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = [np.from_dlpack(chunk) for chunk in chunks]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def read_codes(column: pa.ChunkedArray) -> np.ndarray:
    """Returns the codes of a column with a dictionary."""
    return np.concatenate([to_array(chunk.indices) for chunk in column.iterchunks()])


def read_dictionary(column: pa.ChunkedArray) -> list[str]:
    """Returns the texts of a column with a dictionary, in the order of their codes."""
    return list(column.chunk(0).dictionary.to_pylist())
