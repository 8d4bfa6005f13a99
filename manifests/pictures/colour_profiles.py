"""Converts the colours of a picture from its ICC colour profile to sRGB.

The library LittleCMS (Pillow's ImageCms) does the conversion. A profile counts as sRGB if it differs from sRGB by at
most one 8-bit level. A picture with such a profile keeps its samples.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

Convert = Callable[[Image.Image], Image.Image]

# A profile that differs from sRGB by at most this many 8-bit levels (ours) counts as sRGB. The sRGB profiles of
# different programs differ a little, because the programs round the curve differently.
SAME_AS_SRGB = 1
# A profile is compared with sRGB at 17 x 17 x 17 colours. Each channel has this number (ours) of levels.
_LATTICE = 17
# The conversion from sRGB to a profile is interpolated between 52 x 52 x 52 colours. Each channel has this number
# (ours) of levels.
_FINE_LATTICE = 52
# Browsers and photo editors use the relative colorimetric intent with black point compensation by default. NOCACHE
# forbids LittleCMS to cache the last pixel in a transform, because threads share the transform.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE


class BrokenProfile(Exception):
    """A colour profile cannot be read, or does not fit the channels of the picture."""


@lru_cache(maxsize=16)
def srgb_conversion(icc: bytes, mode: str) -> Convert | None:
    """Returns the function that converts a picture of this Pillow mode with this ICC profile to sRGB.

    `mode` is L, RGB, RGBA, CMYK or LAB. A picture in mode RGBA stays RGBA, and a picture in any other mode becomes RGB.
    Returns None if no conversion is needed: the profile is sRGB, or the picture is gray and the profile has sRGB's tone
    curve. Raises BrokenProfile if the profile cannot be used.
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
    """Returns a conversion for gray pictures. The conversion uses a table of 256 levels, so gray stays exactly gray."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    table = np.asarray(transform.apply(Image.fromarray(ramp)))[0, :, 1]
    if int(np.abs(table.astype(int) - ramp[0]).max()) <= SAME_AS_SRGB:
        return None
    return lambda gray: gray.point(table.tolist()).convert("RGB")


@lru_cache(maxsize=4)
def own_conversion(icc: bytes, mode: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Returns the function that converts sRGB to the colours of a profile, as the inverse of `srgb_conversion`.

    `mode` is L, RGB, CMYK or LAB. The function maps float32 (n, 3), sRGB in 0..255, to float32 (n, channels) in 0..255,
    without rounding. Gray is computed from the green channel. Returns None if the profile is sRGB. Raises BrokenProfile
    if the profile cannot be used.
    """
    # Curation does not need scipy.interpolate, so the import is not at the top of the file. There, it would take 30% of
    # the time in which a worker process of curation imports its libraries (our measurement).
    from scipy.interpolate import RegularGridInterpolator

    to_srgb = srgb_conversion(icc, mode)
    if to_srgb is None:
        return None
    if mode == "L":
        table = np.asarray(to_srgb(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))[0, :, 1]
        rising = np.maximum.accumulate(table.astype(np.float32))
        return lambda srgb: np.interp(srgb[:, 1], rising, np.arange(256)).astype(np.float32)[:, None]
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(_srgb(), profile, "RGB", mode, _INTENT, _FLAGS)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise BrokenProfile(str(error)) from None
    # LittleCMS rounds its results to 8 bits. Therefore only a lattice of sRGB colours is converted with LittleCMS. The
    # other colours are interpolated between the results for the lattice, without rounding.
    axis = np.linspace(0, 255, _FINE_LATTICE)
    lattice = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    whole = Image.fromarray(lattice.round().astype(np.uint8).reshape(-1, _FINE_LATTICE, 3))
    converted = np.asarray(transform.apply(whole), np.float32).reshape(*lattice.shape[:3], -1)
    interpolate = RegularGridInterpolator((axis.round(),) * 3, converted)
    return lambda srgb: interpolate(np.clip(srgb, 0, 255)).astype(np.float32)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
