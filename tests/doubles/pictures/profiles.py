"""Writes ICC profiles of wide RGB spaces from their published primaries, and converts pictures to these spaces."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageCms

# SPACES maps a name to the chromaticities (x, y) of red, green, blue and white, and to the gamma. A gamma of None means
# the curve of sRGB.
SPACES: dict[str, tuple[tuple[tuple[float, float], ...], float | None]] = {
    # The primaries are SMPTE EG 432-1 with the white point D65, and the curve is that of sRGB, as in Apple's Display
    # P3.
    "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290)), None),
    # Source: Adobe RGB (1998) Color Image Encoding, 4.3.
    "Adobe RGB": (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.3290)), 2.19921875),
    # Source: ROMM RGB, ISO 22028-2.
    "ProPhoto": (((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), (0.345704, 0.358540)), 1.8),
    "sRGB": (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290)), None),
}
_D50 = np.array([0.9642, 1.0, 0.8249])  # the white point of the profile connection space, from ICC.1:2001-04
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of(space: str) -> bytes:
    """Returns an ICC version 2 matrix profile of one of SPACES."""
    chromaticities, gamma = SPACES[space]
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in chromaticities])
    primaries, white = xyz[:3].T, xyz[3]
    matrix = primaries * np.linalg.solve(primaries, white)
    scale = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    columns = (np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD @ matrix).T

    def fixed(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)

    curve = _curve(gamma)
    name = space.encode() + b"\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": fixed(_D50)}
    tags |= {name: fixed(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"RGB ", tags)


def gray_profile(gamma: float | None) -> bytes:
    """Returns an ICC version 2 profile of gray pictures with this gamma. None means the curve of sRGB."""
    white = b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(float(value) * 65536)) for value in _D50)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"gray\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": white, b"kTRC": _curve(gamma)}
    return _profile(b"GRAY", tags)


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    steps = np.arange(1024) / 1023
    table = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + (table * 65535).round().astype(">u2").tobytes()


def _profile(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    index, body = b"", b""
    for tag, data in tags.items():
        index += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02100000, b"mntr", kind, b"XYZ ")
    illuminant = b"".join(struct.pack(">i", round(float(value) * 65536)) for value in _D50)
    head += bytes(12) + b"acsp" + bytes(28) + illuminant
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


def converted(rgb: np.ndarray, space: str) -> tuple[Image.Image, bytes]:
    """Converts an sRGB picture, uint8 (H, W, 3), to another colour space. Returns the new picture and its profile."""
    icc = profile_of(space)
    srgb, other = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
    found = ImageCms.profileToProfile(Image.fromarray(rgb), srgb, other, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert found is not None
    return found, icc
