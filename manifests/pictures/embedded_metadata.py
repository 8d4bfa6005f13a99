"""Reads the XMP packet of a picture file, without decoding its pixels if the format allows it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import BinaryIO

from manifests.pictures.extra_formats import RAW, find_kind, is_installed, read_extra_metadata, read_raw_turn
from manifests.pictures.images import open_header
from manifests.pictures.metadata.image_metadata import find_xmp, read_exif, to_bytes

_ORIENTATION, _XMP = 274, 700  # tags of EXIF 2.32 and TIFF


@dataclass(frozen=True)
class EmbeddedMetadata:
    """The XMP packet of a picture file, and how the decoder turns the picture."""

    xmp: bytes = b""  # Empty if the file has no packet.
    # The EXIF orientation (1 to 8) by which the decoder turns a HEIC, JPEG XL or RAW picture. None for a picture in
    # another format, and for a picture whose library is missing.
    turned_by: int | None = None
    is_raw: bool = False


def read_embedded_metadata(file: BinaryIO) -> EmbeddedMetadata:
    """Returns the metadata of an open picture file.

    Raises an error of the decoder if the file is not a picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about broken tags
        kind = find_kind(file)
        if kind is None:
            with open_header(file) as image:
                # If the texts of a PNG come after the pixels, Pillow reads the texts when `read_exif` loads the pixels.
                exif = read_exif(image)
                return EmbeddedMetadata(find_xmp(image, exif))
        if not is_installed(kind):
            return EmbeddedMetadata()
        exif, xmp = read_extra_metadata(file, kind)
        # Some RAW formats have no EXIF block that can be read, so LibRaw reads the orientation.
        orientation = read_raw_turn(file) if kind == RAW else exif.get(_ORIENTATION, 1)
        turned_by = orientation if orientation in range(1, 9) else 1
        return EmbeddedMetadata(xmp or to_bytes(exif.get(_XMP)), turned_by, kind == RAW)
