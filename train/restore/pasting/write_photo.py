"""Write a restored photo with the format, depth, alpha, colour profile, EXIF, XMP and dates of the original file."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from manifests.errors import BadInput
from manifests.pictures.images import Picture, turn_upright
from manifests.pictures.jpeg_files import JpegParts, encode_jpeg, read_jpeg_segments
from manifests.pictures.metadata.metadata_blocks import insert_png_chunks, make_png_chunks, read_png_chunks, set_upright
from manifests.pictures.original_samples import Original
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import write_atomically
from train.restore.pasting.own_samples import change_samples
from train.restore.pasting.paste import Patch

# A photo in one of these formats keeps its format. A photo in another format becomes a PNG.
OWN_FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP")


@dataclass(frozen=True)
class WrittenPhoto:
    """Describes how a photo was written."""

    path: Path
    changed: bool  # False if no sample changed; the file is then a copy of the photo.
    # The largest difference of an 8-bit sample outside the faces. It is 0 in formats without loss.
    largest_difference: int = 0


def write_photo(
    source: Path, own_target: Path, png_target: Path, picture: Picture, patches: Sequence[Patch], lossless: bool = False
) -> WrittenPhoto:
    """Writes a photo with the changes of its faces.

    `picture` is the photo in the file `source`, decoded with `keep_original`. A JPEG is written as JPEG with its own
    quantisation tables and subsampling, or with `lossless` as PNG. PNG, WebP and TIFF keep their format, without loss.
    A TIFF with 16-bit colour and photos in other formats become PNG. The output is `own_target` if the photo keeps its
    format, and `png_target` otherwise. If no sample changes, `source` is copied to `own_target` byte for byte. The
    output gets the modification time of `source`. Raises BadInput if the colours of the photo cannot be stored without
    loss.
    """
    result = change_samples(picture, patches)
    if result is None:
        copy_photo(source, own_target)
        return WrittenPhoto(own_target, changed=False)
    original, mask = result
    keeps_format = original.file_format in OWN_FORMATS and not (lossless and original.jpeg is not None)
    if original.file_format == "TIFF" and original.depth == 16 and original.mode != "L":
        keeps_format = False  # Pillow cannot write 16-bit colour as TIFF
    target = own_target if keeps_format else png_target
    data = _encode(source, original, keeps_format)
    write_atomically(target, data)
    _copy_dates(source, target)
    if keeps_format and original.jpeg is not None:
        assert picture.original is not None
        return WrittenPhoto(target, True, measure_difference(data, picture.original.samples, mask))
    return WrittenPhoto(target, True)


def copy_photo(source: Path, target: Path) -> None:
    """Copies a photo byte for byte, with its modification time."""
    write_atomically(target, source.read_bytes())
    _copy_dates(source, target)


def write_crop(source: Path, target: Path, crop: np.ndarray) -> None:
    """Writes a restored aligned crop, uint8 (S, S, 3), as PNG with the modification time of `source`."""
    write_atomically(target, encode_png(crop))
    _copy_dates(source, target)


def measure_difference(data: bytes, samples: np.ndarray, mask: np.ndarray) -> int:
    """Returns the largest difference between a JPEG and 8-bit samples outside a mask, in levels of 0 to 255."""
    with Image.open(io.BytesIO(data)) as image:
        written = np.asarray(image)
    difference = cv2.absdiff(written, samples)
    if difference.ndim == 3:
        difference = difference.max(axis=2)
    return int(difference[~mask].max(initial=0))


def _encode(source: Path, original: Original, keeps_format: bool) -> bytes:
    if not keeps_format:
        return _encode_png(turn_upright(original.samples, original.orientation), original, None)
    if original.jpeg is not None:
        return _encode_jpeg(source, original, original.jpeg)
    if original.file_format == "PNG":
        return _encode_png(original.samples, original, source.read_bytes())
    buffer, image = io.BytesIO(), _make_image(original.samples, original.mode)
    icc_profile = {} if original.icc_profile is None else {"icc_profile": original.icc_profile}
    if original.file_format == "WEBP":
        exif, xmp = original.exif or b"", original.xmp or b""
        image.save(buffer, "WEBP", lossless=True, exact=True, exif=exif, xmp=xmp, **icc_profile)
    else:
        info = {} if original.xmp is None else {700: original.xmp}  # 700 is the tag of XMP
        image.save(buffer, "TIFF", compression="tiff_adobe_deflate", exif=original.exif, tiffinfo=info, **icc_profile)
    return buffer.getvalue()


def _encode_jpeg(source: Path, original: Original, parts: JpegParts) -> bytes:
    samples, mode = (original.samples, original.mode) if parts.planes is None else (parts.planes, "YCbCr")
    return encode_jpeg(_make_image(samples, mode), parts, read_jpeg_segments(source.read_bytes()))


def _encode_png(samples: np.ndarray, original: Original, own_file: bytes | None) -> bytes:
    """Encodes samples as PNG. The metadata are from the PNG `own_file`, or from `original` if `own_file` is None."""
    if original.mode in ("CMYK", "LAB") or original.depth == 32:
        kind = f"{original.file_format} file ({original.mode}, {original.depth} bits)"
        raise BadInput(f"a PNG cannot hold the colours of this {kind}")
    if original.mode == "LA":
        samples = samples[..., [0, 0, 0, 1]]
    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[samples.shape[2] if samples.ndim == 3 else 2]
    encoded, data = cv2.imencode(".png", samples if order is None else cv2.cvtColor(samples, order))
    if not encoded:
        raise BadInput(f"a picture of {samples.shape[1]} x {samples.shape[0]} pixels is too large for a PNG")
    if own_file is not None:
        return insert_png_chunks(data.tobytes(), read_png_chunks(own_file))
    exif = None if original.exif is None else set_upright(original.exif)
    return insert_png_chunks(data.tobytes(), make_png_chunks(original.icc_profile, exif, original.xmp))


def _make_image(samples: np.ndarray, mode: str) -> Image.Image:
    """Returns samples as a Pillow image of the mode `mode`. For gray samples, the dtype decides the mode."""
    if samples.ndim == 2:
        return Image.fromarray(samples)
    return Image.frombytes(mode, samples.shape[1::-1], np.ascontiguousarray(samples).tobytes())


def _copy_dates(source: Path, target: Path) -> None:
    times = source.stat()
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
