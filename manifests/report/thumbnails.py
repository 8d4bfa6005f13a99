"""Makes JPEG data URIs of pictures for the report. The data URIs contain no metadata."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from manifests.pictures.images import UndecodableImage, decode
from manifests.runtime.archives import ArchiveError, read_bytes
from manifests.runtime.files import sha256_bytes

_READ_ERRORS = (OSError, ValueError, UndecodableImage)
_MARGIN = 0.7  # half the side of the square around a face, divided by the longer side of the face's box


def make_thumbnail(path: Path, side: int) -> str:
    """Returns a picture whose longer side has at most `side` px, or "" if the file cannot be read."""
    try:
        return _encode_jpeg(Image.fromarray(decode(path)), side)
    except _READ_ERRORS:
        return ""


def embed_image(path: Path) -> str:
    """Returns a picture in its own size, or "" if the file cannot be read."""
    return make_thumbnail(path, 1 << 20)


def crop_photo(uri: str, sha256: str, box: Sequence[float], side: int) -> str:
    """Returns the part of a photo around `box` (x0, y0, x1, y1 in photo pixels) as a square of `side` px.

    `sha256` is the recorded hash of the file. Returns "" if the file at `uri` cannot be read or has another hash now.
    """
    try:
        data = read_bytes(uri)
        if sha256_bytes(data) != sha256:
            return ""
        half = _MARGIN * max(box[2] - box[0], box[3] - box[1])
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        edges = (round(x - half), round(y - half), round(x + half), round(y + half))
        square = Image.fromarray(decode(data)).crop(edges)
        return _encode_jpeg(square.resize((side, side), Image.Resampling.LANCZOS), side)
    except (*_READ_ERRORS, ArchiveError):
        return ""


def _encode_jpeg(image: Image.Image, side: int) -> str:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.info = {}  # without this, Pillow would write metadata, such as a JPEG comment, into the thumbnail
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
