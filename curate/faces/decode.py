"""Any photo to RGB uint8, upright, or a reason why not."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow opens no more (twice its MAX_IMAGE_PIXELS, 2**30 // 4 // 3); a 102-megapixel medium-format photo passes.
# 30,000 x 30,000 is 900 million.
MAX_PIXELS = 178_956_970
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # a phone's MPO opens as the JPEG it begins with

# EXIF tag 274 -> what brings the picture upright (EXIF 2.32, 4.6.4 A)
_ORIENTATION = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UndecodableImage(Exception):
    """`reason` is a short code for the ledger: empty_file, not_an_image, too_many_pixels, truncated, broken_image."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def decode(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a photo: EXIF orientation applied, 16 bit scaled, alpha laid on white, the first frame.

    JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF. CMYK is converted by its plain formula, colour profiles are not applied.
    Raises UndecodableImage, and OSError where a path cannot be read; nothing above `max_pixels` is decoded.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    if not data:
        raise UndecodableImage("empty_file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs and odd EXIF; the checks below decide
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise UndecodableImage("too_many_pixels", f"{image.width} x {image.height}")
                image.load()
                return _to_rgb(_upright(image))
        except UndecodableImage:
            raise
        except UnidentifiedImageError:
            raise UndecodableImage("not_an_image") from None
        except Image.DecompressionBombError:
            raise UndecodableImage("too_many_pixels") from None
        except (EOFError, MemoryError) as error:
            raise UndecodableImage("broken_image", str(error)) from None
        except Exception as error:  # Pillow's plugins raise anything from struct.error to SyntaxError on broken files
            reason = "truncated" if "truncated" in str(error).lower() else "broken_image"
            raise UndecodableImage(reason, str(error)) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about orientation; the picture itself is whole
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image, np.uint16).astype(np.float32) / 257.0 + 0.5).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        # a 16-bit PNG opens as mode I with 0..65535; float TIFFs are taken as 0..1 or 0..255 by their largest value
        top = 65535.0 if values.max(initial=0) > 255 else (255.0 if values.max(initial=0) > 1 else 1.0)
        gray = (np.clip(np.nan_to_num(values) / top, 0, 1) * 255 + 0.5).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return np.ascontiguousarray(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))
