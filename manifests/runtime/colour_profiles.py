"""ICC colour profiles: the conversion of a picture's colours to sRGB.

LittleCMS (Pillow's ImageCms) converts. A profile that differs from sRGB by at most one level counts as sRGB, so that a
picture with such a profile keeps its own bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

Convert = Callable[[Image.Image], Image.Image]

# levels of 255: writers of sRGB profiles round the curve differently (ours)
SAME_AS_SRGB = 1
# colours per channel of the lattice on which a profile is compared with sRGB (ours): 17 x 17 x 17 colours
_LATTICE = 17
# Relative colorimetric with black point compensation is what browsers and photo editors use by default. A transform is
# shared between threads, so LittleCMS may not cache the last pixel in it.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE


class BrokenProfile(Exception):
    """The profile cannot be read, or describes another kind of picture."""


@lru_cache(maxsize=16)
def srgb_conversion(icc: bytes, mode: str) -> Convert | None:
    """Returns the function that converts a picture of this Pillow mode with this ICC profile to sRGB.

    `mode` is L, RGB, RGBA, CMYK or LAB. RGBA stays RGBA, and every other mode becomes RGB. Returns None if the profile
    is sRGB itself or, for gray, has sRGB's tone curve. Raises BrokenProfile.
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
    """Returns the conversion of gray pictures as a table of 256 levels, so that gray stays exactly gray."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    table = np.asarray(transform.apply(Image.fromarray(ramp)))[0, :, 1]
    if int(np.abs(table.astype(int) - ramp[0]).max()) <= SAME_AS_SRGB:
        return None
    return lambda gray: gray.point(table.tolist()).convert("RGB")


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
