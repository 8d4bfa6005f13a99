"""Hashes the samples of a picture file as the file stores them.

The hash stays the same if a program writes a rating, a title, a place or another orientation into the file. The samples
of a lossy format depend on the version of the decoder, so this version is recorded beside the hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, features

from manifests.runtime.versions import find_version

# Maps a format to Pillow's name of the library that decodes it. Pillow itself decodes the other formats.
_LIBRARIES = {
    "JPEG": "libjpeg_turbo",
    "TIFF": "libtiff",
    "WEBP": "webp",
    "AVIF": "avif",
    "JPEG2000": "jpg_2000",
}
# Maps each format of manifests/pictures/extra_formats.py to the package that decodes it.
_PACKAGES = {"HEIF": "pi-heif", "JXL": "pylibjxl", "RAW": "rawpy"}
# A picture is hashed and converted in strips of about this many pixels (ours), because this saves memory. Pillow needs
# 4 bytes for each pixel of the picture, and a conversion needs 4 more bytes only for each pixel of a strip. The largest
# 8-bit picture needs 1.2 GiB. A strip also fits into the cache of the processor.
STRIP = 2**18


@dataclass(frozen=True)
class StoredSamples:
    """The identity of the stored samples of a file. The sha256 does not depend on the metadata of the file."""

    sha256: str
    orientation: int  # EXIF orientation, 1 to 8; 1 if the file has no orientation.
    decoder: str  # The result of `describe_decoder`.


def identify_samples(
    image: Image.Image, turned_by: int, orientation: int, samples: np.ndarray | None = None
) -> StoredSamples:
    """Returns the identity of the stored samples of a loaded picture.

    `samples` are the samples of the loaded picture, uint8 (H, W, 3). A caller that already has the samples saves time
    with this argument.

    `turned_by` is the EXIF orientation that Pillow applied while it loaded the picture, or 1. `orientation` is the EXIF
    orientation that the loaded picture still has.
    """
    file_format = "JPEG" if image.format == "MPO" else str(image.format)  # a phone's MPO file begins with a JPEG
    sha256 = _hash_samples(image, turned_by, samples)
    return StoredSamples(sha256, orientation if turned_by == 1 else turned_by, describe_decoder(file_format))


def describe_decoder(file_format: str) -> str:
    """Returns the name of a format and the versions of its decoder.

    An example is `JPEG, Pillow 12.0, libjpeg_turbo 3.1`. If the texts of two decoders differ, the decoders may return
    different samples for the same file.
    """
    if (package := _PACKAGES.get(file_format)) is not None:
        return f"{file_format}, {package} {find_version(package)}"
    library = _LIBRARIES.get(file_format)
    version = "" if library is None else f", {library} {features.version(library)}"
    return f"{file_format}, Pillow {PIL.__version__}{version}"


def is_current(decoder: str | None) -> bool:
    """Returns whether `decoder`, an earlier result of `describe_decoder`, describes the installed decoder."""
    return decoder is not None and describe_decoder(decoder.partition(",")[0]) == decoder


def _hash_samples(image: Image.Image, turned_by: int, samples: np.ndarray | None) -> str:
    """Returns the sha256, in hex, of the mode, the size and the samples of a loaded picture.

    First, the picture is turned back by the orientation `turned_by`. Palette pictures are hashed as RGB or RGBA.
    """
    mode = image.mode
    if mode in ("P", "PA"):
        mode = "RGBA" if mode == "PA" or "transparency" in image.info else "RGB"
    undo = _UNDO.get(turned_by)
    image = image if undo is None else image.transpose(undo)
    digest = hashlib.sha256(f"{mode} {image.width} {image.height} ".encode())
    if samples is not None and undo is None:
        digest.update(np.ascontiguousarray(samples).data)
        return digest.hexdigest()
    for strip in split_into_strips(image.width, image.height):
        part = image.crop(strip)
        values = np.asarray(part if part.mode == mode else part.convert(mode))
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


# Maps an EXIF orientation to the operation that turns an upright picture back into the stored picture (EXIF 2.32, 4.6.4
# A).
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # Pillow rotates counter-clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def split_into_strips(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the boxes (left, top, right, bottom) of strips that together cover a picture."""
    rows = max(1, STRIP // width)
    for y in range(0, height, rows):
        yield 0, y, width, min(y + rows, height)
