"""Converts the colours of a picture from its ICC colour profile to sRGB.

The library LittleCMS (Pillow's ImageCms) does the conversion. A profile that differs from sRGB by at most one of 255
levels counts as sRGB. A picture whose profile counts as sRGB keeps its samples.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

Convert = Callable[[Image.Image], Image.Image]

# the largest difference from sRGB, in levels of 255 (ours); programs round the curve of an sRGB profile differently
SAME_AS_SRGB = 1
# number of levels for each channel (ours): a profile is compared with sRGB at 17 x 17 x 17 colours
_LATTICE = 17
# Browsers and photo editors use relative colorimetric intent with black point compensation by default. Threads share a
# transform, so NOCACHE forbids LittleCMS to cache the last pixel in the transform.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE


class BrokenProfile(Exception):
    """A colour profile cannot be read, or belongs to another kind of picture."""


@lru_cache(maxsize=16)
def srgb_conversion(icc: bytes, mode: str) -> Convert | None:
    """Returns the function that converts a picture of this Pillow mode with this ICC profile to sRGB.

    `mode` is L, RGB, RGBA, CMYK or LAB. A picture in mode RGBA stays RGBA, and a picture in any other mode becomes
    RGB. Returns None if the profile is sRGB. Returns None for a gray picture if the profile has sRGB's tone curve.
    Raises BrokenProfile if the profile cannot be used.
    """
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(
            profile, _srgb(), mode, "RGBA" if mode == "RGBA" else "RGB", _INTENT, _FLAGS
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise BrokenProfile(str(error)) from None
    if mode == "L":
        return _gray_conversion(transform)
    if mode in ("RGB", "RGBA"):
        axis = np.linspace(0, 255, _LATTICE).round().astype(np.uint8)
        lattice = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, _LATTICE, 3)
        colours = Image.fromarray(lattice).convert(mode)
        converted = np.asarray(transform.apply(colours))[..., :3]
        if int(np.abs(converted.astype(int) - lattice).max()) <= SAME_AS_SRGB:
            return None
    return transform.apply


def _gray_conversion(transform: ImageCms.ImageCmsTransform) -> Convert | None:
    """Returns a conversion for gray pictures that uses a table of 256 levels, so that gray stays exactly gray."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    table = np.asarray(transform.apply(Image.fromarray(ramp)))[0, :, 1]
    if int(np.abs(table.astype(int) - ramp[0]).max()) <= SAME_AS_SRGB:
        return None
    return lambda gray: gray.point(table.tolist()).convert("RGB")


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
