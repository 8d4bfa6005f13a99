"""Reads the samples of a picture file as the file stores them, and the format, depth and metadata of the file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from manifests.pictures.jpeg_files import JpegParts, read_jpeg_parts

_TIFF_BITS = 258  # the tag BitsPerSample of TIFF 6.0


@dataclass(frozen=True)
class Original:
    """The content of a picture file as it is stored, before it is turned upright and converted to sRGB.

    `samples` has the shape (H, W) for gray pictures, and (H, W, channels) for other pictures. The order of the channels
    is R, G, B, A or C, M, Y, K. The dtype is uint8, uint16, int32 or float32. A palette picture is converted to RGB or
    RGBA. A JPEG that was read at half size has half-size samples.
    """

    samples: np.ndarray
    mode: str  # Pillow's mode of `samples`: L, LA, RGB, RGBA, CMYK or LAB.
    file_format: str  # Pillow's name of the format, such as JPEG.
    depth: int  # Bits per channel: 8, 16 or 32.
    orientation: int  # EXIF orientation, from 1 to 8. A file without an orientation has 1.
    icc_profile: bytes | None
    exif: bytes | None
    xmp: bytes | None
    jpeg: JpegParts | None = None  # the parts of a JPEG; None for other formats


def read_original(image: Image.Image, file: BinaryIO, orientation: int, whole: bool) -> Original:
    """Returns the samples of an open picture, and the format, depth, profile and metadata of its file.

    `whole` is False if the picture is a JPEG that is read at half size. Raises ValueError if 16-bit samples cannot be
    read.
    """
    info, file_format = image.info, str(image.format)
    exif, xmp = info.get("exif"), info.get("xmp")
    if file_format == "TIFF":
        with suppress(Exception):  # a broken tag must not make the picture unreadable
            exif = image.getexif().tobytes()
    mode = image.mode
    if _has_16_bit_colour(image, file):
        samples, mode = _read_16_bit_colour(image, file)
    else:
        if mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
            mode = "LA" if mode in ("L", "La") else "RGBA" if has_alpha(image) else "RGB"
            image = image.convert(mode)
        elif mode == "1":
            mode, image = "L", image.convert("L")
        samples = np.asarray(image)
        samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        mode = "L" if samples.ndim == 2 else mode
    return Original(
        samples=samples,
        mode=mode,
        file_format=file_format,
        depth=8 * samples.dtype.itemsize,
        orientation=orientation,
        icc_profile=info.get("icc_profile"),
        exif=exif,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        jpeg=read_jpeg_parts(file, whole) if file_format in ("JPEG", "MPO") else None,
    )


def _read_16_bit_colour(image: Image.Image, file: BinaryIO) -> tuple[np.ndarray, str]:
    """Returns the samples, and their mode, of a picture that has 16-bit colour, or 16-bit gray with alpha."""
    file.seek(0)
    stored = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise ValueError("the 16-bit samples cannot be read")
    if image.mode == "LA":
        return np.ascontiguousarray(stored[..., [0, -1]]), "LA"
    if stored.shape[2] == 4:
        return cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA), "RGBA"
    return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), "RGB"


def has_alpha(image: Image.Image) -> bool:
    """Returns whether a picture has an alpha channel or a transparent colour."""
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def find_white(samples: np.ndarray) -> float:
    """Returns the value that stands for white in these samples.

    For 8-bit and 16-bit samples, white is the largest value of the type. For 32-bit samples, white is 1 if no sample
    exceeds 1, 255 if the largest sample is above 1 and at most 255, and 65535 if a sample exceeds 255.
    """
    if samples.dtype.itemsize < 4:
        return float(np.iinfo(samples.dtype).max)
    largest = float(samples.max())
    return 65535.0 if largest > 255 else (255.0 if largest > 1 else 1.0)


def _has_16_bit_colour(image: Image.Image, file: BinaryIO) -> bool:
    """Returns whether the file has 16-bit colour, which OpenCV reads completely and Pillow reduces to 8 bit."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PNG":
        file.seek(24)  # the first chunk is IHDR, and byte 24 of the file is its bit depth
        return file.read(1) == b"\x10"
    return image.format == "TIFF" and set(getattr(image, "tag_v2", {}).get(_TIFF_BITS, ())) == {16}
