"""Copies the metadata of a picture file into a new file of the same photo, as blocks of bytes."""

from __future__ import annotations

import struct
import zlib

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# These chunks do not depend on how the pixels are stored (PNG 1.2, and the third edition of PNG).
_PNG_METADATA = {
    b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI",
    b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME",
}  # fmt: skip
_EXIF_HEADER = b"Exif\x00\x00"
_ORIENTATION = 274


def read_png_chunks(data: bytes) -> bytes:
    """Returns the metadata chunks of a PNG, byte for byte: profile, EXIF, XMP, texts and resolution.

    The chunks after a broken chunk are left out.
    """
    chunks, place = [], len(_PNG_SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        if data[place + 4 : place + 8] in _PNG_METADATA:
            chunks.append(data[place:end])
        place = end
    return b"".join(chunks)


def make_png_chunks(icc_profile: bytes | None, exif: bytes | None, xmp: bytes | None) -> bytes:
    """Returns PNG chunks with a colour profile, an EXIF block and an XMP text."""
    chunks = b""
    if icc_profile:
        chunks += _make_chunk(b"iCCP", b"ICC profile\x00\x00" + zlib.compress(icc_profile))
    if exif:
        chunks += _make_chunk(b"eXIf", exif.removeprefix(_EXIF_HEADER))
    if xmp:
        chunks += _make_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + xmp)
    return chunks


def insert_png_chunks(encoded: bytes, chunks: bytes) -> bytes:
    """Inserts chunks into a PNG after its header chunk."""
    # The header chunk has 25 bytes: 8 bytes before the data, 13 bytes of data and 4 bytes after the data
    end_of_header = len(_PNG_SIGNATURE) + 25
    return encoded[:end_of_header] + chunks + encoded[end_of_header:]


def set_upright(exif: bytes) -> bytes:
    """Returns the EXIF block with the orientation 1.

    A block without an orientation and a broken block are returned unchanged.
    """
    start = len(_EXIF_HEADER) if exif.startswith(_EXIF_HEADER) else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    if order is None or len(exif) < start + 8:
        return exif
    place = start + struct.unpack_from(f"{order}I", exif, start + 4)[0]
    if place + 2 > len(exif):
        return exif
    (entries,) = struct.unpack_from(f"{order}H", exif, place)
    for entry in range(place + 2, min(place + 2 + 12 * entries, len(exif) - 11), 12):
        if struct.unpack_from(f"{order}H", exif, entry)[0] == _ORIENTATION:
            return exif[: entry + 8] + struct.pack(f"{order}HH", 1, 0) + exif[entry + 12 :]
    return exif


def _make_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
