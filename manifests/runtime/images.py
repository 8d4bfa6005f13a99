"""Every picture enters and leaves through this file: the one decoder, its limits, and the PNG encoder.

    rgb = decode(path)                                # uint8 RGB (H, W, 3), upright, sRGB
    picture = decode_picture(path, keep_original=True)   # the same, with a notice and the file's own samples

What the decoder does with everything that is not plain 8-bit sRGB:

| in the file           | in the RGB view                                                                          |
|-----------------------|------------------------------------------------------------------------------------------|
| EXIF orientation      | turned upright                                                                           |
| colour profile        | converted to sRGB; a broken profile is ignored and gives the notice BROKEN_PROFILE       |
| alpha                 | laid on white                                                                            |
| 16 bit                | scaled to 8 bit                                                                          |
| float, 32-bit integer | scaled by the largest value: 1, 255 or 65,535; NaN or infinity is refused                |
| CMYK                  | converted by its profile, or by Pillow's formula if it has none                          |
| gray, palette, LAB    | converted                                                                                |
| several frames, pages | the first one                                                                            |
| over MAX_PIXELS       | a JPEG is read at half its width and height, with the notice HALF_SIZE; others refused    |

Files are told apart by their content, never by their names.
"""

from __future__ import annotations

import errno
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from manifests.runtime.colour_profiles import BrokenProfile, srgb_conversion

# Pillow opens no more (twice its MAX_IMAGE_PIXELS, 2**30 // 4 // 3); a 102-megapixel medium-format photo passes.
MAX_PIXELS = 178_956_970
# A JPEG of up to this many times `max_pixels` is decoded at half its width and height (ours). Phones write 200
# megapixels.
_MAX_TIMES_HALVED = 4
# Pillow's names. The MPO file of a phone opens as the JPEG that it begins with.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000")
# A picture is converted in strips of about this many pixels (ours): Pillow holds 4 bytes for each pixel, and a
# conversion as many again. So the largest 8-bit picture needs 1.2 GiB, and a small one is converted in the cache.
STRIP = 2**18

BROKEN_PROFILE = "broken_colour_profile"
HALF_SIZE = "read_at_half_size"

# what each notice means, as the end of a sentence whose subject is a count of photos
NOTICE_MEANINGS = {
    BROKEN_PROFILE: "with a broken colour profile: the profile was ignored",
    HALF_SIZE: f"of more than {MAX_PIXELS // 10**6} megapixels: read at half width and height",
}

OUT_OF_MEMORY = "out_of_memory"
# the codes of UndecodableImage, and what they mean, as the end of a sentence whose subject is the file
MEANINGS = {
    "empty_file": "is empty",
    "not_an_image": f"is not a picture in a known format ({', '.join(FORMATS)})",
    "too_many_pixels": f"has more than {MAX_PIXELS // 10**6} megapixels: save it smaller",
    "truncated": "is cut short",
    "broken_image": "is damaged",
    "not_finite": "contains NaN or infinity",
    OUT_OF_MEMORY: "needs more memory than there is",
}

# EXIF tag 274 -> the operation that turns the stored picture upright (EXIF 2.32, 4.6.4 A)
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
# Any other OSError comes from the disk. A broken picture names places in its file that do not exist.
_PICTURE_ERRNOS = (None, errno.EINVAL, errno.EOVERFLOW)
_TIFF_BITS = 258  # BitsPerSample, TIFF 6.0


class UndecodableImage(Exception):
    """`reason` is a key of MEANINGS, and `str()` of the exception is the end of a sentence about the file."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{MEANINGS[reason]} ({detail})" if detail else MEANINGS[reason])
        self.reason = reason


@dataclass(frozen=True)
class Original:
    """What the file itself holds, as stored: not turned upright, not converted to sRGB.

    `samples` is (H, W) for gray, else (H, W, channels), in the order R, G, B, A or C, M, Y, K. Its dtype is uint8,
    uint16 (16 bit), int32 or float32. A palette picture is expanded to RGB or RGBA; a JPEG that was read at half size
    has its half-size samples.
    """

    samples: np.ndarray
    file_format: str  # Pillow's name, such as JPEG
    depth: int  # bits per channel: 8, 16 or 32
    orientation: int  # EXIF, 1 to 8; 1 if the file has none
    icc_profile: bytes | None
    exif: bytes | None
    xmp: bytes | None


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    rgb: np.ndarray  # uint8 (H, W, 3), upright, sRGB
    notice: str | None = None  # BROKEN_PROFILE or HALF_SIZE
    original: Original | None = None  # only if it was asked for


def decode(source: bytes | Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns a picture as uint8 RGB (H, W, 3), upright and in sRGB. See `decode_picture`."""
    return decode_picture(source, max_pixels).rgb


def decode_picture(
    source: bytes | Path | BinaryIO, max_pixels: int = MAX_PIXELS, keep_original: bool = False
) -> Picture:
    """Decodes a picture as the table at the top of this file says.

    An open file is read from its beginning. Raises UndecodableImage, and OSError if a path cannot be read. A JPEG of
    more than `max_pixels` and at most four times as many is read at half size; larger pictures are refused before
    their pixels are decoded.
    """
    if isinstance(source, Path):
        with source.open("rb") as opened:
            return decode_picture(opened, max_pixels, keep_original)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    file.seek(0)
    if not file.read(1):
        raise UndecodableImage("empty_file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs and odd EXIF; the checks below decide
        try:
            with _open(file) as image:
                notice = _limit_pixels(image, max_pixels)
                image.load()
                orientation = _read_orientation(image)
                original = _read_original(image, file, orientation) if keep_original else None
                rgb, profile_notice = _convert_to_rgb(image)
            del image  # turning needs the 4 bytes a pixel that Pillow holds
            return Picture(turn_upright(rgb, orientation), profile_notice or notice, original)
        except UndecodableImage:
            raise
        except UnidentifiedImageError:
            raise UndecodableImage("not_an_image") from None
        except Image.DecompressionBombError as error:
            raise UndecodableImage("too_many_pixels", str(error).split(",")[0]) from None
        except MemoryError:
            raise UndecodableImage(OUT_OF_MEMORY) from None
        except Exception as error:  # Pillow's plugins raise anything from struct.error to SyntaxError on broken files
            if isinstance(error, OSError) and error.errno not in _PICTURE_ERRNOS:
                raise
            if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
                raise UndecodableImage(OUT_OF_MEMORY) from None
            if "truncated" in str(error).lower():
                raise UndecodableImage("truncated") from None
            raise UndecodableImage("broken_image", str(error)) from None


def turn_upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Returns stored samples turned upright for this EXIF orientation."""
    turn = _TURNS.get(orientation)
    return samples if turn is None else np.ascontiguousarray(turn(samples))


def is_picture(path: Path) -> bool:
    """Returns whether the first bytes of a file are those of a known picture format. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(16)
    return any(_accepts(name, start) for name in FORMATS)


def _accepts(name: str, start: bytes) -> bool:
    Image.init()
    accept = Image.OPEN[name][1] if name in Image.OPEN else None
    return bool(accept is not None and accept(start) is True)


def _open(file: BinaryIO) -> Image.Image:
    """Opens a picture by its header. Pillow's own limit is lifted for JPEG, which can be decoded at half size."""
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        file.seek(0)
        if not _accepts("JPEG", file.read(16)):
            raise
        file.seek(0)
        return JpegImagePlugin.JpegImageFile(file)


def _limit_pixels(image: Image.Image, max_pixels: int) -> str | None:
    """Returns HALF_SIZE after telling Pillow to decode a JPEG at half size, or None if nothing is too large.

    Raises UndecodableImage.
    """
    pixels = image.width * image.height
    if pixels <= max_pixels:
        return None
    if image.format not in ("JPEG", "MPO") or pixels > _MAX_TIMES_HALVED * max_pixels:
        limit = f"{image.width} x {image.height}, {pixels / 1e6:.0f} megapixels"
        raise UndecodableImage("too_many_pixels", limit)
    image.draft(image.mode, ((image.width + 1) // 2, (image.height + 1) // 2))
    return HALF_SIZE


def _read_orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about orientation; the picture itself is whole
        return 1
    return value if value in _TURNS else 1


def _read_original(image: Image.Image, file: BinaryIO, orientation: int) -> Original:
    """Reads the samples of an opened picture, with what else its file holds."""
    deep_colour = _has_16_bit_colour(image, file)
    if deep_colour:
        file.seek(0)
        stored = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        if stored is None:
            raise UndecodableImage("broken_image", "its 16-bit samples cannot be read")
        order = cv2.COLOR_BGRA2RGBA if stored.shape[2] == 4 else cv2.COLOR_BGR2RGB
        samples = cv2.cvtColor(stored, order)
    elif image.mode in ("P", "PA"):
        samples = np.asarray(image.convert("RGBA" if _has_alpha(image) else "RGB"))
    elif image.mode == "1":
        samples = np.asarray(image.convert("L"))
    else:
        samples = np.asarray(image)
        samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    info = image.info
    return Original(
        samples=samples,
        file_format=str(image.format),
        depth=8 * samples.dtype.itemsize,
        orientation=orientation,
        icc_profile=info.get("icc_profile"),
        exif=info.get("exif"),
        xmp=info.get("xmp"),
    )


def _has_16_bit_colour(image: Image.Image, file: BinaryIO) -> bool:
    """Returns whether the file holds 16-bit colour, which Pillow reads as 8 bit and OpenCV as it is."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    if image.format == "PNG":
        file.seek(24)  # the depth in the IHDR chunk, which always comes first
        return file.read(1) == b"\x10"
    return image.format == "TIFF" and set(getattr(image, "tag_v2", {}).get(_TIFF_BITS, ())) == {16}


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _convert_to_rgb(image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Returns uint8 RGB (H, W, 3) in sRGB, still as stored, and BROKEN_PROFILE or None."""
    strips = list(_split_into_strips(image.width, image.height))
    white = 255.0
    if image.mode in ("I", "F"):
        # a 16-bit PNG may open as mode I with 0..65535; float TIFFs are taken as 0..1 or 0..255 by their largest value
        arrays = [np.asarray(image.crop(strip)) for strip in strips]
        if not all(bool(np.isfinite(values).all()) for values in arrays):
            raise UndecodableImage("not_finite")
        largest = max(float(values.max()) for values in arrays)
        white = 65535.0 if largest > 255 else (255.0 if largest > 1 else 1.0)
    icc, notice = image.info.get("icc_profile"), None
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for strip in strips:
        part = _scale_to_8_bit(image.crop(strip), white)
        if _has_alpha(part):
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


def _convert_colours(part: Image.Image, icc: bytes | None) -> Image.Image:
    """Converts a strip to sRGB. Raises BrokenProfile."""
    if part.mode == "LAB":
        icc = icc or _lab_profile()
    convert = srgb_conversion(icc, part.mode) if icc else None
    return part if convert is None else convert(part)


def _lab_profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _split_into_strips(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, STRIP // width)
    for y in range(0, height, rows):
        yield 0, y, width, min(y + rows, height)


def _scale_to_8_bit(strip: Image.Image, white: float) -> Image.Image:
    """Scales gray of 16 bit, of whole numbers and of floats to 8 bit; any other strip is returned as it is."""
    if strip.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(strip, np.uint16).astype(np.float32) / 257.0 + 0.5).astype(np.uint8))
    if strip.mode in ("I", "F"):
        values = np.asarray(strip, np.float64)
        return Image.fromarray((np.clip(values / white, 0, 1) * 255 + 0.5).astype(np.uint8))
    return strip
