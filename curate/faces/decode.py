"""Any photo to RGB uint8, upright, or a reason why not."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# 200 million pixels: twice a 102-megapixel medium-format photo; ours. 30,000 x 30,000 is 900 million.
MAX_PIXELS = 200_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO")


class UndecodableImage(Exception):
    """`reason` is a short code for the ledger: empty_file, not_an_image, too_many_pixels, truncated, broken_image."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def decode(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a photo: EXIF orientation applied, 16 bit scaled, alpha laid on white, first frame of many.

    JPEG, PNG, WebP, BMP, TIFF, GIF. Raises UndecodableImage; nothing of a picture above `max_pixels` is decoded.
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
                image = ImageOps.exif_transpose(image)
                return _to_rgb(image)
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
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))
