"""Makes small WebP pictures of faces, and stores them in DATASET/thumbnails.

The name of a thumbnail contains the hash of the crop and the thumbnail's size. A changed crop therefore gets a new
thumbnail. A thumbnail is made from the pixels alone, and contains no metadata of the photo.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from PIL import Image

from manifests.ledger.paths import THUMBNAILS, crop_path
from manifests.ledger.records import Face
from manifests.pictures.images import UndecodableImage, decode
from manifests.runtime.files import write_atomically

SIDE = 224  # Side in pixels (ours). A face can be judged at this size on a screen with two pixels per CSS pixel.
_QUALITY = 82  # The quality of WebP, from 0 to 100 (ours).


def read_thumbnail(dataset: Path, face: Face, can_write: bool) -> bytes | None:
    """Returns the thumbnail of a face as WebP, or None if the face has no readable crop.

    If `can_write` is true and the disk has room, a new thumbnail is stored.
    """
    if face.crop_sha256 is None:
        return None
    path = dataset / THUMBNAILS / face.crop_sha256[:2] / f"{face.crop_sha256}-{SIDE}.webp"
    with contextlib.suppress(OSError):
        return path.read_bytes()
    try:
        data = encode_webp(Image.fromarray(decode(crop_path(dataset, face.face_id))), SIDE)
    except (OSError, UndecodableImage):
        return None
    if can_write:
        with contextlib.suppress(OSError):
            write_atomically(path, data)
    return data


def read_crop(dataset: Path, face: Face) -> bytes | None:
    """Returns the crop of a face in its own size as WebP, or None if the face has no readable crop."""
    if face.crop_sha256 is None:
        return None
    try:
        image = Image.fromarray(decode(crop_path(dataset, face.face_id)))
    except (OSError, UndecodableImage):
        return None
    return encode_webp(image, max(image.size))


def encode_webp(image: Image.Image, side: int) -> bytes:
    """Returns a picture without metadata as WebP. The longer side has at most `side` pixels."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()
