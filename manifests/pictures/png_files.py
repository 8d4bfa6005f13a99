"""Writes the PNG files of Likeness, and reads these files without the checks for untrusted pictures."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from zlib_ng import zlib_ng

from manifests.errors import BadInput

# The PNG settings of frozen LQ images. Never change these settings, because the ledger records the sha256 of each
# image.
LQ_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _FILTER_UP = 2, 2  # the numbers of the colour type RGB and of the filter Up in PNG


def encode_png(rgb: np.ndarray, settings: tuple[int, ...] = ()) -> bytes:
    """Returns uint8 RGB (H, W, 3) as a PNG without metadata.

    `settings` are OpenCV's PNG settings. If `settings` is empty, OpenCV uses its defaults. The same pixels and settings
    give the same bytes in every run of the same build of OpenCV. Raises BadInput if the picture is too large for a PNG.
    """
    encoded, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR), settings)
    if not encoded:
        size = f"{rgb.shape[1]} x {rgb.shape[0]} pixels"
        raise BadInput(f"A picture of {size} is too large for a PNG. Give a smaller picture.")
    return data.tobytes()


def encode_png_quickly(rgb: np.ndarray) -> bytes:
    """Returns uint8 RGB (H, W, 3) as a PNG without metadata, in about half of the time of `encode_png`.

    Each row is stored as its difference from the row above (PNG's filter Up), and compressed only with Huffman codes. A
    search for repeated bytes would save little, because photos hardly repeat bytes. Such a search could also give other
    bytes on another processor. The same pixels give the same bytes with the same version of zlib-ng. docs/speed.md has
    measurements.
    """
    height, width = rgb.shape[:2]
    pixels = rgb.reshape(height, -1)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    deflate = zlib_ng.compressobj(
        zlib_ng.Z_BEST_SPEED, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, zlib_ng.DEF_MEM_LEVEL, zlib_ng.Z_HUFFMAN_ONLY
    )
    data = deflate.compress(rows) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
    return _SIGNATURE + _make_chunk(b"IHDR", header) + _make_chunk(b"IDAT", data) + _make_chunk(b"IEND", b"")


def _make_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib_ng.crc32(data, zlib_ng.crc32(kind)))


def decode_own_png(data: bytes) -> np.ndarray | None:
    """Decodes a PNG that Likeness wrote. Returns uint8 RGB (H, W, 3), or None if the data is broken or empty."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    return None if image is None else np.asarray(image)
