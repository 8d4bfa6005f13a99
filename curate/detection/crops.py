"""The 512 px crops beside the ledger: lossless PNG without metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manifests.ledger.paths import crop_path
from manifests.runtime.files import sha256_bytes, write_atomically
from manifests.runtime.png_files import CROP_PNG, decode_own_png, encode_png


def write_crop(dataset: Path, face_id: str, crop: np.ndarray) -> str:
    """A 512 px crop, RGB uint8 (H, W, 3), as PNG at DATASET/faces/ab/<face_id>.png; answers the file's sha256."""
    data = encode_png(crop, CROP_PNG)
    write_atomically(crop_path(dataset, face_id), data)
    return sha256_bytes(data)


def read_crop(dataset: Path, face_id: str) -> np.ndarray:
    """RGB uint8 (512, 512, 3) of a face. Raises OSError where the crop is missing, ValueError where it is broken."""
    crop = decode_own_png(crop_path(dataset, face_id).read_bytes())
    if crop is None:
        raise ValueError(f"{crop_path(dataset, face_id)} is not a PNG")
    return crop
