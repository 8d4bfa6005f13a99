"""Writes metadata into picture files without touching a pixel, as programs that rate or rotate photos do."""

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li xmp:Rating="%d"/></x:xmpmeta>'


def rate(path: Path, stars: int = 5) -> None:
    """Write a rating as XMP into a JPEG, PNG or WebP."""
    data, xmp = path.read_bytes(), XMP % stars
    if data[:2] == b"\xff\xd8":
        segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    elif data[:4] == b"\x89PNG":
        chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + xmp
        chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data = data[:33] + chunk + data[33:]
    else:
        width, height = Image.open(io.BytesIO(data)).size
        chunks = data[12:] if data[12:16] != b"VP8X" else data[30:]
        header = b"VP8X" + struct.pack("<IB3x", 10, 4) + (width - 1).to_bytes(3, "little")
        chunks = header + (height - 1).to_bytes(3, "little") + chunks + b"XMP " + struct.pack("<I", len(xmp)) + xmp
        chunks += b"\0" * (len(xmp) % 2)
        data = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    path.write_bytes(data)


def orient(path: Path, orientation: int) -> None:
    """Put an EXIF block with this orientation at the start of a JPEG."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    data = path.read_bytes()
    start = 2
    while data[start : start + 2] == b"\xff\xe1" and data[start + 4 : start + 8] == b"Exif":
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[start:])


def encode_again(path: Path, quality: int = 90, scale: float = 1) -> None:
    """Decode a file and save it again in its own format, with another size or not."""
    with Image.open(path) as image:
        size = round(image.width * scale), round(image.height * scale)
        image, file_format = image.convert("RGB").resize(size, Image.Resampling.LANCZOS), image.format
    image.save(path, file_format, quality=quality)
