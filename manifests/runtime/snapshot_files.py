"""Defines the names of the files of a snapshot, and reads its table of faces.

train/data/snapshot.py opens a snapshot for training. manifests/privacy/snapshot_cleanup.py removes faces from a
snapshot.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

VERSION = 5  # the version of the layout of the folder
FACTS = "snapshot.json"
FACES = "faces.arrow"  # The table of faces: an Arrow IPC file without compression, with a row for each face.
OLD_FACES = "faces.parquet"  # The table of faces of a snapshot before version 5.
CROPS = "crops.npy"
LARGE_CROPS = "large_crops.npy"  # Crops of 512 px, only of faces that are larger in their photo than in crops.npy.
VALID = "valid.npy"  # A bit for each pixel of each crop: 1 if the pixel comes from the photo, and 0 outside the photo.
EMBEDDINGS = "embeddings.npy"  # Unit embeddings, float32 (n, d).
LANDMARKS = "landmarks.npy"  # The five landmarks of each face, in pixels of the crop, float32 (n, 5, 2).
ROW_ARRAYS = (CROPS, VALID, EMBEDDINGS, LANDMARKS)  # The files of arrays with a row for each face.
# In the facts of a snapshot, this key has the older hashes of the snapshot: each purge changes the hash. The configs of
# runs contain such older hashes.
BEFORE_PURGES = "before_purges"


def read_faces(path: Path) -> pa.Table:
    """Returns an Arrow IPC file as a table. The values are read from the file when they are needed.

    Raises OSError or ValueError if the file cannot be read."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def to_array(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns a column of numbers, which must not contain NULL.

    The method `to_numpy` of pyarrow is not used, because it would import pandas, which takes .3 s."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = [np.from_dlpack(chunk) for chunk in chunks]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def read_codes(column: pa.ChunkedArray) -> np.ndarray:
    """Returns the codes of a dictionary-encoded column."""
    return np.concatenate([to_array(chunk.indices) for chunk in column.iterchunks()])


def read_dictionary(column: pa.ChunkedArray) -> list[str]:
    """Returns the texts of a dictionary-encoded column, in the order of their codes."""
    return list(column.chunk(0).dictionary.to_pylist())
