"""Reads facts about a picture's file. The facts help to decide whether the picture is an original or a copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from manifests.pictures.jpeg_tables import LUMA_50

# The EXIF tags of the maker and the model of the camera (EXIF 2.32, 4.6.4).
_CAMERA_TAGS = (271, 272)


@dataclass(frozen=True)
class FileFacts:
    """Facts about the file of a picture, as it was before decoding."""

    format: str  # Pillow's name of the format, followed by " CMYK" or " palette" if the pixels are CMYK or palette.
    # The quality from 1 to 100, estimated from the quantisation table. None if the file is not a JPEG.
    jpeg_quality: int | None
    camera: bool  # Whether the file names the camera that took the picture.


def read_file_facts(image: Image.Image) -> FileFacts:
    """Returns the facts about an open picture. Call this function before the picture is converted."""
    suffix = {"CMYK": " CMYK", "P": " palette", "PA": " palette"}.get(image.mode, "")
    try:
        exif = image.getexif()
        camera = any(str(exif.get(tag, "")).strip("\x00 ") for tag in _CAMERA_TAGS)
    except Exception:  # the EXIF block is broken, but the picture is not
        camera = False
    return FileFacts(f"{image.format}{suffix}", _estimate_quality(image), camera)


def _estimate_quality(image: Image.Image) -> int | None:
    """Returns an estimate of libjpeg's quality setting of a JPEG, from 1 to 100, or None if the file is not a JPEG."""
    table = getattr(image, "quantization", {}).get(0)
    if not table or len(table) != LUMA_50.size:
        return None
    percent = float(np.median(100 * np.array(table, np.float64) / LUMA_50.ravel()))
    return round(min(max(100 - percent / 2 if percent <= 100 else 5000 / percent, 1), 100))
