"""Reads the XMP packet of a picture file. If the format allows it, the pixels are not decoded."""

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
    """The XMP packet of a picture file, and the EXIF orientation that the decoder applies to the picture."""

    xmp: bytes = b""  # The packet. Empty if the file has none.
    # For a HEIC, JPEG XL or RAW picture: the EXIF orientation (1 to 8) that the decoder applies to turn the picture
    # upright. None for other formats, and without the library of the format.
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
                # The texts of a PNG may come after the pixels. Pillow reads such texts when `read_exif` loads the
                # pixels.
                exif = read_exif(image)
                return EmbeddedMetadata(find_xmp(image, exif))
        if not is_installed(kind):
            return EmbeddedMetadata()
        exif, xmp = read_extra_metadata(file, kind)
        # LibRaw reads the orientation of a RAW picture, because the EXIF block of some RAW formats cannot be read.
        orientation = read_raw_turn(file) if kind == RAW else exif.get(_ORIENTATION, 1)
        turned_by = orientation if orientation in range(1, 9) else 1
        return EmbeddedMetadata(xmp or to_bytes(exif.get(_XMP)), turned_by, kind == RAW)
