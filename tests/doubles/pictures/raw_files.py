"""Writes two kinds of TIFF files: camera RAW (a DNG with sensor data), and files that begin with a small preview."""

import struct

import numpy as np

# The numbers of the TIFF field types. _CODES maps three of them to their codes for the module struct.
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SRATIONAL = 1, 2, 3, 4, 5, 10
_CODES = {_BYTE: "B", _SHORT: "H", _LONG: "I"}
Tags = dict[int, tuple[int, list]]


def _pack(kind: int, values: list) -> bytes:
    if kind == _ASCII:
        return values[0].encode() + b"\0"
    if kind in (_RATIONAL, _SRATIONAL):
        code = "<II" if kind == _RATIONAL else "<ii"
        return b"".join(struct.pack(code, round(value * 10000), 10000) for value in values)
    return struct.pack(f"<{len(values)}{_CODES[kind]}", *values)


def _write_ifd(tags: Tags, start: int) -> bytes:
    """Returns an IFD that begins at the byte `start` of the file. Values of more than 4 bytes follow the IFD."""
    extra_at = start + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        data = _pack(kind, values)
        count = len(data) if kind == _ASCII else len(values)
        inline = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", extra_at + len(extra))
        extra += data + b"\0" * (len(data) % 2) if len(data) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, count) + inline
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + extra


def _picture_tags(samples: np.ndarray, at: int, photometric: int, kind: int) -> Tags:
    channels = samples.shape[2] if samples.ndim == 3 else 1
    return {
        254: (_LONG, [kind]),
        256: (_LONG, [samples.shape[1]]),
        257: (_LONG, [samples.shape[0]]),
        258: (_SHORT, [8 * samples.dtype.itemsize] * channels),
        259: (_SHORT, [1]),
        262: (_SHORT, [photometric]),
        273: (_LONG, [at]),
        277: (_SHORT, [channels]),
        278: (_LONG, [samples.shape[0]]),
        279: (_LONG, [samples.nbytes]),
    }


def with_preview(preview: np.ndarray, full: np.ndarray, is_dng: bool, orientation: int = 1) -> bytes:
    """Returns a TIFF. The first IFD of the file is `preview`, RGB uint8, and the SubIFD of this IFD is `full`.

    If `is_dng` is True, `full` contains uint16 Bayer samples (RGGB).
    """
    preview_at = 8
    full_at = preview_at + preview.nbytes + preview.nbytes % 2
    first_at = full_at + full.nbytes + full.nbytes % 2
    tags = _picture_tags(preview, preview_at, 2, 1) | {330: (_LONG, [0])}
    full_tags = _picture_tags(full, full_at, 32803 if is_dng else 2, 0)
    if is_dng:
        tags |= {
            274: (_SHORT, [orientation]),
            271: (_ASCII, ["Nobody"]),
            272: (_ASCII, ["Camera"]),
            50706: (_BYTE, [1, 4, 0, 0]),
            50708: (_ASCII, ["Nobody Camera"]),
            50721: (_SRATIONAL, [0.4124, 0.3576, 0.1805, 0.2126, 0.7152, 0.0722, 0.0193, 0.1192, 0.9505]),
            50728: (_RATIONAL, [1.0, 1.0, 1.0]),
        }
        full_tags |= {33421: (_SHORT, [2, 2]), 33422: (_BYTE, [0, 1, 1, 2]), 50717: (_LONG, [65535])}
    second_at = first_at + len(_write_ifd(tags, first_at))
    tags[330] = (_LONG, [second_at])
    body = struct.pack("<2sHI", b"II", 42, first_at) + preview.tobytes().ljust(full_at - preview_at, b"\0")
    body += full.tobytes().ljust(first_at - full_at, b"\0")
    return body + _write_ifd(tags, first_at) + _write_ifd(full_tags, second_at)
