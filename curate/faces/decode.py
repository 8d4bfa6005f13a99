"""Any photo to RGB uint8, upright, or a reason why not."""

from __future__ import annotations

import errno
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow opens no more (twice its MAX_IMAGE_PIXELS, 2**30 // 4 // 3); a 102-megapixel medium-format photo passes.
# 30,000 x 30,000 is 900 million.
MAX_PIXELS = 178_956_970
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # a phone's MPO opens as the JPEG it begins with

# EXIF tag 274 -> what brings the picture upright (EXIF 2.32, 4.6.4 A)
_ORIENTATION = 274
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda rgb: cv2.flip(rgb, 1),
    3: lambda rgb: cv2.rotate(rgb, cv2.ROTATE_180),
    4: lambda rgb: cv2.flip(rgb, 0),
    5: cv2.transpose,
    6: lambda rgb: cv2.rotate(rgb, cv2.ROTATE_90_CLOCKWISE),
    7: lambda rgb: cv2.flip(cv2.transpose(rgb), -1),
    8: lambda rgb: cv2.rotate(rgb, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# A picture is converted a strip of about so many pixels at a time (ours): Pillow holds 4 bytes for each, and a
# conversion as many again. So the largest 8-bit picture needs 1.2 GiB, and a small one is converted in the cache.
STRIP = 2**18
# An OSError that says anything else is the disk's. A broken picture names places in its file that cannot be.
_OF_THE_PICTURE = (None, errno.EINVAL, errno.EOVERFLOW)


class UndecodableImage(Exception):
    """`reason` is a short code for the ledger: empty_file, not_an_image, too_many_pixels, truncated, broken_image,
    out_of_memory."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def decode(source: bytes | Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a photo: EXIF orientation applied, 16 bit scaled, alpha laid on white, the first frame.

    JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF. CMYK is converted by its plain formula, colour profiles are not applied.
    Raises UndecodableImage, and OSError where a path cannot be read; nothing above `max_pixels` is decoded. An open
    file is read from its beginning.
    """
    if isinstance(source, Path):
        with source.open("rb") as opened:
            return decode(opened, max_pixels)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    file.seek(0)
    if not file.read(1):
        raise UndecodableImage("empty_file")
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs and odd EXIF; the checks below decide
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise UndecodableImage("too_many_pixels", f"{image.width} x {image.height}")
                image.load()
                turn = _UPRIGHT.get(_orientation(image))
                rgb = _to_rgb(image)
            del image  # its 4 bytes a pixel are needed for turning
            return rgb if turn is None else np.ascontiguousarray(turn(rgb))
        except UndecodableImage:
            raise
        except UnidentifiedImageError:
            raise UndecodableImage("not_an_image") from None
        except Image.DecompressionBombError:
            raise UndecodableImage("too_many_pixels") from None
        except MemoryError:
            raise UndecodableImage("out_of_memory") from None
        except Exception as error:  # Pillow's plugins raise anything from struct.error to SyntaxError on broken files
            if isinstance(error, OSError) and error.errno not in _OF_THE_PICTURE:
                raise
            if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
                raise UndecodableImage("out_of_memory") from None
            reason = "truncated" if "truncated" in str(error).lower() else "broken_image"
            raise UndecodableImage(reason, str(error)) from None


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about orientation; the picture itself is whole
        return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    strips = list(_strips(image.width, image.height))
    white = 255.0
    if image.mode in ("I", "F"):
        # a 16-bit PNG opens as mode I with 0..65535; float TIFFs are taken as 0..1 or 0..255 by their largest value
        most = float(np.max([np.asarray(image.crop(strip)).max() for strip in strips]))
        white = 65535.0 if most > 255 else (255.0 if most > 1 else 1.0)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for strip in strips:
        rgb[strip[1] : strip[3]] = _strip(image.crop(strip), white)
    return rgb


def _strips(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, STRIP // width)
    for y in range(0, height, rows):
        yield 0, y, width, min(y + rows, height)


def _strip(image: Image.Image, white: float) -> np.ndarray:
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image, np.uint16).astype(np.float32) / 257.0 + 0.5).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        gray = (np.clip(np.nan_to_num(values) / white, 0, 1) * 255 + 0.5).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
