"""Decodes untrusted pictures within limits of size and memory.

All code of Likeness that reads untrusted pictures uses this decoder.

    rgb = decode(path)                                   # uint8 RGB (H, W, 3), upright, sRGB
    picture = decode_picture(path, keep_original=True)   # the same pixels, a notice, and the file's own samples

The decoder returns 8-bit RGB in sRGB, by these rules:

A picture with an EXIF orientation is turned upright.
Colours are converted to sRGB with the file's colour profile. A broken profile is ignored (notice BROKEN_PROFILE).
A picture with alpha is laid on white.
Samples of 16 bit are scaled to 8 bit.
For floats and 32-bit integers, the largest sample decides whether white is 1, 255 or 65,535.
A picture with NaN or infinity is refused.
CMYK is converted with the colour profile, or with Pillow's formula if the file has no profile.
Gray, palette and LAB pictures are converted to RGB.
Only the first frame or page of a file is decoded.
HEIC, JPEG XL and camera RAW are decoded if their library is installed (extra_formats.py).
If a file is an MPO or a motion photo, only the still picture is decoded.
A JPEG with one to four times MAX_PIXELS pixels is read at half its width and height (notice HALF_SIZE).
Any other picture with more pixels than MAX_PIXELS is refused.

The decoder recognizes a format by the content of the file, and never by the name.
"""

from __future__ import annotations

import contextlib
import errno
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from manifests.pictures.colour_profiles import BrokenProfile, srgb_conversion
from manifests.pictures.extra_formats import (
    EXTRAS,
    OTHER_PICTURE,
    RAW,
    find_kind,
    is_installed,
    open_extra,
    read_extra_metadata,
)
from manifests.pictures.file_facts import FileFacts, read_file_facts
from manifests.pictures.metadata.image_metadata import find_xmp, read_exif
from manifests.pictures.metadata.photo_dates import PhotoDate, read_photo_date
from manifests.pictures.original_samples import Original, find_white, has_alpha, read_original
from manifests.pictures.stored_samples import StoredSamples, identify_samples, split_into_strips

# The largest number of pixels that Pillow accepts: twice its MAX_IMAGE_PIXELS, which is 2**30 // 4 // 3. The 102
# megapixels of a medium-format camera are allowed.
MAX_PIXELS = 178_956_970
# A JPEG with more than `max_pixels` pixels is decoded at half its width and height. A JPEG with more than this number
# (ours) times `max_pixels` pixels is refused. The cameras of some phones write 200 megapixels.
_MAX_TIMES_HALVED = 4
# The names are those of Pillow. An MPO file of a phone begins with a JPEG, and is decoded as this JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000")

BROKEN_PROFILE = "broken_colour_profile"
HALF_SIZE = "read_at_half_size"

# Maps a notice to the end of a sentence that begins with a count of photos.
NOTICE_MEANINGS = {
    BROKEN_PROFILE: "with a broken colour profile, which was ignored",
    HALF_SIZE: f"of more than {MAX_PIXELS // 10**6} megapixels, decoded at half width and height",
}

OUT_OF_MEMORY = "out_of_memory"
# Maps a reason of UndecodableImage to the end of a sentence that begins with a file name.
MEANINGS = {
    "empty_file": "is empty",
    "not_an_image": f"is not a picture in a known format ({', '.join(FORMATS)})",
    "too_many_pixels": f"has more than {MAX_PIXELS // 10**6} megapixels: save a smaller copy of it",
    "truncated": "is cut short",
    "broken_image": "is damaged",
    "not_finite": "contains NaN or infinity",
    OUT_OF_MEMORY: "needs more memory than there is",
    **{
        reason: f"is a {name} picture, for which a library is missing: pip install 'likeness[{extra}]'"
        for reason, (_, extra, name) in EXTRAS.items()
    },
    OTHER_PICTURE: "is a picture in a format that Likeness does not read: save a copy as PNG or TIFF",
}

# maps the value of EXIF tag 274 to the operation that turns the stored picture upright (EXIF 2.32, 4.6.4 A)
_ORIENTATION = 274
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda rgb: cv2.flip(rgb, 1),
    3: lambda rgb: cv2.rotate(rgb, cv2.ROTATE_180),
    4: lambda rgb: cv2.flip(rgb, 0),
    5: cv2.transpose,
    6: lambda rgb: cv2.rotate(rgb, cv2.ROTATE_90_CLOCKWISE),
    7: lambda rgb: cv2.flip(cv2.transpose(rgb), -1),
    8: lambda rgb: cv2.rotate(rgb, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# An OSError with one of these codes means that the picture is broken, because a broken picture can point to places
# outside its file. An OSError with any other code comes from the disk.
_PICTURE_ERRNOS = (None, errno.EINVAL, errno.EOVERFLOW)


class UndecodableImage(Exception):
    """A picture cannot be decoded. `reason` is a key of MEANINGS.

    The text of the exception is the end of a sentence that begins with a file name.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{MEANINGS[reason]} ({detail})" if detail else MEANINGS[reason])
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """The result of `decode_picture`."""

    rgb: np.ndarray  # The pixels: uint8 (H, W, 3), upright, sRGB.
    notice: str | None = None  # BROKEN_PROFILE, HALF_SIZE or None.
    original: Original | None = None  # None without `keep_original`.
    facts: FileFacts | None = None  # Facts about the file. `decode_picture` always sets this field.
    stored: StoredSamples | None = None  # None without `identify`.
    date: PhotoDate | None = None  # None without `identify`.


def decode(source: bytes | Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns a picture as uint8 RGB (H, W, 3), upright and in sRGB. `decode_picture` explains limits and errors."""
    return decode_picture(source, max_pixels).rgb


def decode_picture(
    source: bytes | Path | BinaryIO,
    max_pixels: int = MAX_PIXELS,
    keep_original: bool = False,
    identify: bool = False,
) -> Picture:
    """Decodes a picture by the rules at the top of this file.

    With `keep_original`, the result has the samples as the file stores them. With `identify`, the result has the hash
    of the stored samples and the date of the photo.

    An open file is read from its beginning. A JPEG with more than `max_pixels` and at most 4 * `max_pixels` pixels is
    read at half its width and height. Any other picture with more than `max_pixels` pixels is refused before its pixels
    are decoded. Raises UndecodableImage if the picture cannot be decoded. Raises OSError if a path cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as opened:
            return decode_picture(opened, max_pixels, keep_original, identify)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    file.seek(0)
    if not file.read(1):
        raise UndecodableImage("empty_file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks below replace Pillow's warnings
        try:
            kind = find_kind(file)
            with open_header(file) if kind is None else _open_kind(file, kind, max_pixels) as image:
                notice = _limit_pixels(image, max_pixels)
                facts = read_file_facts(image)
                # Pillow turns a TIFF upright while it loads the TIFF, and then forgets the orientation.
                turned = _read_orientation(image) if image.format == "TIFF" else 1
                image.load()
                orientation = _read_orientation(image) if kind is None else 1
                date = _read_date(image, file, kind) if identify else None
                original = read_original(image, file, orientation, notice is None) if keep_original else None
                rgb, profile_notice = _convert_to_rgb(image)
                # The conversion keeps the samples of an RGB picture without a profile and without alpha.
                is_plain = image.mode == "RGB" and not image.info.get("icc_profile") and not has_alpha(image)
                samples = rgb if is_plain else None
                stored = identify_samples(image, turned, orientation, samples) if identify else None
            del image  # this frees memory that `turn_upright` needs
            return Picture(turn_upright(rgb, orientation), profile_notice or notice, original, facts, stored, date)
        except UndecodableImage:
            raise
        except UnidentifiedImageError:
            raise UndecodableImage("not_an_image") from None
        except Image.DecompressionBombError as error:
            raise UndecodableImage("too_many_pixels", str(error).split(",")[0]) from None
        except MemoryError:
            raise UndecodableImage(OUT_OF_MEMORY) from None
        except Exception as error:  # for broken files, Pillow raises many classes of errors, even SyntaxError
            if isinstance(error, OSError) and error.errno not in _PICTURE_ERRNOS:
                raise
            if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
                raise UndecodableImage(OUT_OF_MEMORY) from None
            if "truncated" in str(error).lower():
                raise UndecodableImage("truncated") from None
            raise UndecodableImage("broken_image", str(error)) from None


def turn_upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turns the stored samples of a picture with this EXIF orientation upright."""
    turn = _TURNS.get(orientation)
    return samples if turn is None else np.ascontiguousarray(turn(samples))


def is_picture(path: Path) -> bool:
    """Returns whether the first bytes of a file are those of a picture format that Likeness can decode.

    Raises OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        if find_kind(file) in EXTRAS:
            return True
        file.seek(0)
        start = file.read(16)
    return any(_accepts(name, start) for name in FORMATS)


def _accepts(name: str, start: bytes) -> bool:
    Image.init()
    accept = Image.OPEN[name][1] if name in Image.OPEN else None
    return bool(accept is not None and accept(start) is True)


def open_header(file: BinaryIO) -> Image.Image:
    """Opens a picture in one of FORMATS and reads its header. The caller closes the picture.

    A JPEG may have more pixels than Pillow allows, because it can be read at half size.
    """
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        file.seek(0)
        if not _accepts("JPEG", file.read(16)):
            raise
        file.seek(0)
        return JpegImagePlugin.JpegImageFile(file)


def _open_kind(file: BinaryIO, kind: str, max_pixels: int) -> Image.Image:
    """Decodes a picture of a kind that Pillow does not decode.

    Raises UndecodableImage. The reason is the kind if the library of the kind is missing, and OTHER_PICTURE if the
    library cannot decode this picture.
    """
    if kind not in EXTRAS or not is_installed(kind):
        raise UndecodableImage(kind)
    try:
        return open_extra(file, kind, lambda width, height: _refuse_too_many(width, height, max_pixels))
    except NotImplementedError as error:
        raise UndecodableImage(OTHER_PICTURE, str(error)) from None


def _refuse_too_many(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        limit = f"{width} x {height}, {width * height / 1e6:.0f} megapixels"
        raise UndecodableImage("too_many_pixels", limit)


def _limit_pixels(image: Image.Image, max_pixels: int) -> str | None:
    """Returns None if a picture has at most `max_pixels` pixels.

    Returns HALF_SIZE for a larger JPEG that can be decoded at half size, and tells Pillow to use this size. Raises
    UndecodableImage for any other larger picture.
    """
    pixels = image.width * image.height
    if pixels <= max_pixels:
        return None
    if image.format not in ("JPEG", "MPO") or pixels > _MAX_TIMES_HALVED * max_pixels:
        _refuse_too_many(image.width, image.height, max_pixels)
    image.draft(image.mode, ((image.width + 1) // 2, (image.height + 1) // 2))
    return HALF_SIZE


def _read_date(image: Image.Image, file: BinaryIO, kind: str | None) -> PhotoDate:
    exif = read_extra_metadata(file, RAW)[0] if kind == RAW else read_exif(image)
    return read_photo_date(image, exif, find_xmp(image, exif))


def _read_orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the EXIF block is broken, but the picture is not
        return 1
    return value if value in _TURNS else 1


def _convert_to_rgb(image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Returns uint8 RGB (H, W, 3) in sRGB, before the picture is turned upright, and a notice or None.

    The notice is BROKEN_PROFILE if the colour profile was ignored.
    """
    if image.mode == "RGB" and not image.info.get("icc_profile") and not has_alpha(image):
        with contextlib.suppress(ValueError):  # Pillow keeps a large picture in several blocks of memory
            return _copy_samples(image), None
    strips = list(split_into_strips(image.width, image.height))
    white = 255.0
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise UndecodableImage("not_finite")
        white = find_white(values)
    icc, notice = image.info.get("icc_profile"), None
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for strip in strips:
        part = _scale_to_8_bit(image.crop(strip), white)
        if has_alpha(part):
            part = part.convert("RGBA")
        elif part.mode not in ("L", "RGB", "CMYK", "LAB"):
            part = part.convert("L" if part.mode == "1" else "RGB")
        if icc or part.mode == "LAB":
            try:
                part = _convert_colours(part, icc)
            except BrokenProfile:
                notice = BROKEN_PROFILE
        if part.mode == "RGBA":
            part = Image.alpha_composite(Image.new("RGBA", part.size, (255, 255, 255, 255)), part)
        rgb[strip[1] : strip[3]] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
    return rgb, notice


def _copy_samples(image: Image.Image) -> np.ndarray:
    """Returns the samples of an RGB picture, uint8 (H, W, 3).

    Pillow shares the memory of the picture, which has 4 bytes for each pixel. Raises ValueError if the memory is not
    one block.
    """
    pixels = pa.array(image).values.to_numpy()
    return cv2.cvtColor(pixels.reshape(image.height, image.width, 4), cv2.COLOR_RGBA2RGB)


def _convert_colours(part: Image.Image, icc: bytes | None) -> Image.Image:
    """Converts a strip to sRGB. Raises BrokenProfile if the profile cannot be used."""
    if part.mode == "LAB":
        icc = icc or _lab_profile()
    convert = srgb_conversion(icc, part.mode) if icc else None
    return part if convert is None else convert(part)


def _lab_profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _scale_to_8_bit(strip: Image.Image, white: float) -> Image.Image:
    """Scales a gray strip of 16-bit, 32-bit or float samples to 8 bit. Returns a strip of 8-bit samples unchanged."""
    if strip.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(strip, np.uint16).astype(np.float32) / 257.0 + 0.5).astype(np.uint8))
    if strip.mode in ("I", "F"):
        values = np.asarray(strip, np.float64)
        return Image.fromarray((np.clip(values / white, 0, 1) * 255 + 0.5).astype(np.uint8))
    return strip
