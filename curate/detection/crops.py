"""Writes and reads the crops in DATASET/faces: lossless PNG files of 512 x 512 pixels, without metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from curate.detection.read_photos import Source, read_photo
from curate.detection.reasons import PHOTO_VANISHED
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, find_valid_pixels
from curate.faces.comparison.luma_dct import encode_luma
from curate.faces.measure import hash_face
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face
from manifests.pictures.png_files import decode_own_png, encode_png_quickly
from manifests.runtime.files import sha256_bytes, write_atomically
from manifests.runtime.workers import FailedUnit, guard_units


def write_crop(dataset: Path, face_id: str, crop: np.ndarray) -> str:
    """Writes a crop, RGB uint8 (512, 512, 3), to DATASET/faces/ab/<face_id>.png. Returns the sha256 of the file."""
    data = encode_png_quickly(crop)
    write_atomically(crop_path(dataset, face_id), data)
    return sha256_bytes(data)


def read_crop(dataset: Path, face_id: str) -> np.ndarray:
    """Returns the crop of a face, RGB uint8 (512, 512, 3).

    Raises OSError if the file cannot be read. Raises ValueError if the file is not a PNG.
    """
    crop = decode_own_png(crop_path(dataset, face_id).read_bytes())
    if crop is None:
        raise ValueError(f"{crop_path(dataset, face_id)} is not a PNG")
    return crop


def crop_batch(photos: Sequence[tuple[Sequence[Source], Sequence[Face]] | FailedUnit], dataset: Path) -> list[Face]:
    """Cuts the crops of faces from the photos again, with the recorded landmarks.

    Returns the new ledger rows of the faces.

    Each item of `photos` has the files that contain a photo, and the faces of the photo.
    """
    rows: list[Face] = []
    for item in guard_units(photos):
        sources, faces = item.unit if isinstance(item, FailedUnit) else item
        image = None if isinstance(item, FailedUnit) else read_photo(sources)
        if image is None:
            reason = item.reason if isinstance(item, FailedUnit) else PHOTO_VANISHED
            rows += [replace(face, status="failed", reason=reason, duplicate_of=None) for face in faces]
            continue
        for face in faces:
            landmarks5 = np.array(face.landmarks5).reshape(5, 2)
            crop = align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE)
            luma_dct = encode_luma(crop, find_valid_pixels(landmarks5, image.shape[1], image.shape[0], 128))
            sha256 = write_crop(dataset, face.face_id, crop)
            rows.append(replace(face, crop_sha256=sha256, phash=hash_face(crop), luma_dct=luma_dct))
    return rows
