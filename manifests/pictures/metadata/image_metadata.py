"""Finds the EXIF block and the XMP packet of an open picture."""

from __future__ import annotations

from PIL import Image

_XMP = 700  # The TIFF tag of an XMP packet.
# The names under which Pillow stores the packet. The second name is that of a PNG.
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")


def read_exif(image: Image.Image) -> Image.Exif:
    """Returns the EXIF block of an open picture. A broken block counts as an empty block."""
    try:
        return image.getexif()
    except Exception:  # the EXIF block is broken, but the picture is not
        return Image.Exif()


def find_xmp(image: Image.Image, exif: Image.Exif) -> bytes:
    """Returns the XMP packet of an open picture, or b"" if there is none."""
    found = next((image.info[key] for key in _XMP_KEYS if image.info.get(key)), None)
    return to_bytes(found if found is not None else exif.get(_XMP))


def to_bytes(value: object) -> bytes:
    """Returns a packet as bytes. Returns b"" for a value that is neither text nor bytes."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if isinstance(value, bytes) else b""
