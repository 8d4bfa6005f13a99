"""Reads the EXIF block and the XMP packet of a picture file, without decoding its pixels if the format allows it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import BinaryIO

from PIL import Image

from manifests.pictures.extra_formats import RAW, find_kind, is_installed, read_extra_metadata
from manifests.pictures.images import open_header

_ORIENTATION, _XMP = 274, 700  # EXIF 2.32 and TIFF tags
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")  # Pillow's names; the second is the name of a PNG's text


@dataclass(frozen=True)
class EmbeddedMetadata:
    """The metadata of a picture file."""

    exif: Image.Exif = field(default_factory=Image.Exif)
    xmp: bytes = b""  # b"" if the file has no packet
    # EXIF orientation by which the decoder turns the samples, 1 to 8, if only this block knows it (HEIC, JPEG XL, RAW)
    turned_by: int | None = None
    is_raw: bool = False


def read_embedded_metadata(file: BinaryIO) -> EmbeddedMetadata:
    """Returns the metadata of an open picture file. A broken EXIF block, and a picture without metadata, is empty.

    Raises an error of the decoder if the file is not a picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about broken tags
        kind = find_kind(file)
        if kind is None:
            with open_header(file) as image:
                return EmbeddedMetadata(read_exif(image), find_xmp(image))
        if not is_installed(kind):
            return EmbeddedMetadata()
        exif, xmp = read_extra_metadata(file, kind)
        orientation = exif.get(_ORIENTATION, 1)
        turned_by = orientation if orientation in range(1, 9) else 1
        return EmbeddedMetadata(exif, xmp or _as_bytes(exif.get(_XMP)), turned_by, kind == RAW)


def read_exif(image: Image.Image) -> Image.Exif:
    """Returns the EXIF block of an open picture. A broken block counts as an empty block."""
    try:
        return image.getexif()
    except Exception:  # the EXIF block is broken, but the picture is not
        return Image.Exif()


def find_xmp(image: Image.Image) -> bytes:
    """Returns the XMP packet of an open picture, or b"" if there is none."""
    found = next((image.info[key] for key in _XMP_KEYS if image.info.get(key)), None)
    return _as_bytes(found if found is not None else read_exif(image).get(_XMP))


def _as_bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if isinstance(value, bytes) else b""
