"""Reads the parts of a JPEG that are needed to encode a changed picture in the same way, and encodes the new JPEG.

If a JPEG is decoded to RGB and encoded again with the same tables, even unchanged pixels differ by up to ten levels.
One reason is that RGB is rounded. The other reason is that the two chroma channels are enlarged and then reduced.
Likeness therefore reads the pixels as luma and chroma, and enlarges the chroma by repeating each sample. The encoder
reverses this repetition exactly.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

# Pillow's number for chroma at half width and half height (4:2:0).
_HALF_CHROMA = 2
# If a side of a JPEG has fewer pixels than this number (ours), the chroma of the JPEG is not read at half size.
_MIN_SIDE = 16
# _ADOBE is the marker of a segment that the encoder writes itself. _MPF is the start of a segment that points to other
# pictures.
_ADOBE, _MPF = 0xEE, b"MPF\x00"


@dataclass(frozen=True)
class JpegParts:
    """The stored samples of a JPEG, and the settings with which it was encoded."""

    # The samples Y, Cb and Cr, uint8 (H, W, 3). None for a JPEG that is gray, CMYK or stored as RGB, or that was read
    # at half size.
    planes: np.ndarray | None
    # Quantisation tables of 64 values: one for luma and one for chroma, or one for each channel.
    tables: list[list[int]]
    subsampling: int  # 0 for 4:4:4, 1 for 4:2:2, and 2 for 4:2:0. All other kinds become 4:4:4.
    progressive: bool
    stored_as_rgb: bool


def read_jpeg_parts(file: BinaryIO, whole: bool) -> JpegParts:
    """Returns the parts of a JPEG, without `planes` if `whole` is False. Raises Pillow's errors."""
    image = _open(file)
    channels = [part[0] for part in image.layer]
    as_rgb = len(channels) == 3 and (image.info.get("adobe_transform") == 0 or channels == [82, 71, 66])
    numbers = [part[3] for part in image.layer]
    if numbers == [0, 1, 1]:
        numbers = [0, 1]
    elif len(set(numbers)) == 1 or len(channels) == 4:  # Pillow stores CMYK without conversion to luma and chroma
        numbers = numbers[:1]
    tables = [list(image.quantization[number]) for number in numbers]
    subsampling = JpegImagePlugin.get_sampling(image)
    progressive = bool(image.info.get("progressive"))
    planes = _read_planes(file, subsampling) if whole and len(channels) == 3 and not as_rgb else None
    return JpegParts(planes, tables, max(subsampling, 0), progressive, as_rgb)


def encode_jpeg(image: Image.Image, parts: JpegParts, segments: bytes = b"") -> bytes:
    """Encodes a picture in mode YCbCr, L, RGB or CMYK with the settings of the JPEG from which `parts` was read.

    `segments` is the metadata that `read_jpeg_segments` returned.
    """
    buffer = io.BytesIO()
    image.save(
        buffer,
        "JPEG",
        qtables=parts.tables,
        subsampling=parts.subsampling,
        progressive=parts.progressive,
        keep_rgb=parts.stored_as_rgb,
        optimize=True,
    )
    data = buffer.getvalue()
    if not segments:
        return data
    start = 2
    if data[3] == 0xE0 and segments[1] == 0xE0:  # the JFIF header in `segments` replaces the JFIF header of the encoder
        start += 2 + int.from_bytes(data[4:6], "big")
    return data[:2] + segments + data[start:]


def read_jpeg_segments(data: bytes) -> bytes:
    """Returns the metadata of a JPEG: its segments with EXIF, XMP, ICC profile, IPTC and comments, byte for byte.

    The segment that lists the other pictures of an MPO file is left out. A segment that goes beyond the end of the file
    is left out, with all segments after it.
    """
    kept, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        if data[place + 1] == 0xFF:  # a fill byte
            place += 1
            continue
        marker, end = data[place + 1], place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        is_metadata = (0xE0 <= marker <= 0xEF and marker != _ADOBE) or marker == 0xFE
        if is_metadata and end <= len(data) and data[place + 4 : place + 8] != _MPF:
            kept.append(data[place:end])
        place = end
    kept.sort(key=lambda segment: segment[1] != 0xE0)  # the JFIF segment must be the first
    return b"".join(kept)


def _open(file: BinaryIO) -> JpegImagePlugin.JpegImageFile:
    file.seek(0)
    return JpegImagePlugin.JpegImageFile(file)


def _read_planes(file: BinaryIO, subsampling: int) -> np.ndarray:
    image = _open(file)
    width, height = image.size
    image.draft("YCbCr", image.size)
    planes = np.array(image)
    if subsampling == _HALF_CHROMA and min(width, height) >= _MIN_SIDE:
        # At half size, libjpeg returns the stored chroma samples of 4:2:0, without interpolation.
        half = _open(file)
        half.draft("YCbCr", (width // 2, height // 2))
        chroma = np.asarray(half)[..., 1:]
        planes[..., 1:] = chroma.repeat(2, 0).repeat(2, 1)[:height, :width]
    return planes
