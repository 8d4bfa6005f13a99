"""Reads the crops for training: the original crop of a face, or a cleaned version of the crop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests.errors import LedgerBroken
from manifests.ledger.paths import crop_path
from manifests.pictures.png_files import decode_own_png
from manifests.runtime.files import sha256_bytes

if TYPE_CHECKING:
    from manifests.ledger.records import CleanedVersion


def read_crop(dataset: Path, face_id: str, size: int) -> np.ndarray:
    """Returns the original crop of a face, RGB uint8 (size,size,3).

    Raises LedgerBroken if the file of the crop is missing or broken.
    """
    from degrade.operations.pixels import shrink

    source = crop_path(dataset, face_id)
    image = decode_own_png(source.read_bytes() if source.is_file() else b"")
    if image is None:
        raise LedgerBroken(
            f"The crop {source} is missing or broken: remove the file if it exists, and run `likeness curate` again."
        )
    return shrink(image, size)


def read_cleaned_crop(dataset: Path, version: CleanedVersion, size: int) -> np.ndarray:
    """Returns a cleaned version of a face, RGB uint8 (size,size,3).

    Raises LedgerBroken if the file is missing, if its hash differs from the hash in the ledger, or if the image has
    another size.
    """
    from manifests.ledger.cleaned_targets import version_path

    source = version_path(dataset, version.iteration, version.round, version.face_id)
    data = source.read_bytes() if source.is_file() else b""
    image = decode_own_png(data) if sha256_bytes(data) == version.sha256 else None
    if image is None or image.shape != (size, size, 3):
        raise LedgerBroken(
            f"The cleaned crop {source} is missing, was changed or has the wrong size: run `likeness iterate` with "
            "another --out."
        )
    return image
