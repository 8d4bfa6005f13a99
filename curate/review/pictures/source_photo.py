"""Draws the photo of a face, with a frame around the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from curate.review.pictures.thumbnails import encode_webp
from manifests.ledger.records import Face
from manifests.pictures.images import UndecodableImage, decode
from manifests.runtime.archives import ArchiveError, read_bytes
from manifests.runtime.files import sha256_bytes

if TYPE_CHECKING:
    from curate.review.session.view import PhotoFile

SIDE = 1600  # The longer side of the picture has at most this number (ours) of pixels.
_READ_ERRORS = (OSError, ValueError, UndecodableImage, ArchiveError)


def draw_source_photo(files: Sequence[PhotoFile], face: Face) -> bytes | None:
    """Returns the photo as WebP, with a frame around the face.

    `files` are the files that contain the photo. A file that is gone, or that was changed since the curation, is not
    used. Returns None if no file can be used.
    """
    for file in files:
        try:
            data = read_bytes(file.uri)
            if sha256_bytes(data) != file.sha256:
                continue
            image = Image.fromarray(decode(data))
        except _READ_ERRORS:
            continue
        scale = min(1.0, SIDE / max(image.size))
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        box = [scale * side for side in face.box]
        draw = ImageDraw.Draw(image)
        width = max(2, round(max(image.size) / 300))
        # the frame is a dark line around a light line, so that the frame is visible on every photo
        draw.rectangle([box[0] - width, box[1] - width, box[2] + width, box[3] + width], outline="black", width=width)
        draw.rectangle(box, outline="#ffd21f", width=width)
        return encode_webp(image, SIDE)
    return None
