"""Encodes pictures again at their own size, without loss and without metadata, and cuts faces out of photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.responses import Response

from curate.review.pictures.thumbnails import encode_webp
from manifests.pictures.images import UndecodableImage, decode
from manifests.pictures.png_files import encode_png_quickly
from manifests.runtime.archives import ArchiveError, read_bytes
from manifests.runtime.files import sha256_bytes

PHOTO_SIDE = 448  # Longer side (ours) of the small picture of a photo, in pixels.
_OUTSIDE = (128, 128, 128)  # The colour of places outside the photo, as in the crops.
_MARGIN = 0.7  # Half the side (ours) of the square around a face, divided by the longer side of the face's box.


def encode_file(path: Path, side: int | None = None) -> bytes | None:
    """Returns the picture of a file as PNG, or None if the file cannot be read.

    If `side` is smaller than the picture, the picture is resized by area averages, as `likeness degrade` resizes a
    crop.
    """
    try:
        return encode_bytes(path.read_bytes(), side)
    except OSError:
        return None


def encode_bytes(data: bytes, side: int | None = None) -> bytes | None:
    """Decodes the bytes of a picture file and returns the picture as PNG, or None if the bytes cannot be decoded.

    See `encode_file` for `side`.
    """
    try:
        rgb = decode(data)
    except UndecodableImage:
        return None
    if side is not None and side < max(rgb.shape[:2]):
        scale = side / max(rgb.shape[:2])
        height, width = (max(1, round(length * scale)) for length in rgb.shape[:2])
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return encode_png_quickly(rgb)


def encode_photo(uri: str, sha256: str | None, box: Sequence[float] | None = None) -> bytes | None:
    """Returns a small picture of a photo as WebP. With `box`, the picture shows only the square around the box.

    `box` is (x0, y0, x1, y1) in photo pixels. `sha256` is the recorded hash of the file. Returns None if the file
    cannot be read, or if it has another hash now.
    """
    try:
        data = read_bytes(uri)
        if sha256_bytes(data) != sha256:
            return None
        image = Image.fromarray(decode(data))
    except (OSError, ValueError, UndecodableImage, ArchiveError):
        return None
    if box is not None:
        half = _MARGIN * max(box[2] - box[0], box[3] - box[1])
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        square = Image.new("RGB", (2 * round(half), 2 * round(half)), _OUTSIDE)
        square.paste(image, (round(half - x), round(half - y)))
        image = square
    return encode_webp(image, PHOTO_SIDE)


def answer_png(data: bytes | None) -> Response:
    """Sends a PNG, or the status 404 if there is no picture."""
    if data is None:
        raise HTTPException(404)
    return Response(data, media_type="image/png")
