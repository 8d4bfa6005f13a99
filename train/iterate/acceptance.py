"""Decide which training targets are cleaned, and which cleaned versions are accepted. All bounds in this file are ours.

The authors of IDM (arXiv 2307.08996) also clean their training images. The abstract does not say which images they
clean.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from curate.faces.measure import compute_luma, measure_blockiness, measure_noise, measure_sharpness

# The number of the rule about sharpness in `find_rejection`. Rule 1 was: the result is sharper than the best cleaned
# version by a margin. Rule 2 is: the result is sharper than the original by a margin, and sharper than the best cleaned
# version without a margin.
RULE = 2
REASONS = ("identity_fell", "content_changed", "new_noise", "new_blocks", "not_sharper", "not_a_number")


@dataclass(frozen=True)
class Bounds:
    """Holds the bounds that decide which targets are cleaned and which results are accepted."""

    # A target is cleaned if its sharpness is below `soft`, its noise is above `noisy`, or its blockiness is above
    # `blocky`. The values are from the filters `strict` (curate/face_filters.py). Curation measures sharpness on
    # the 512 px crop. Curation measures noise and blockiness at the resolution of the photo.
    soft: float = 0.26
    noisy: float = 5.6
    blocky: float = 1.2
    # The cosine of original and result must be at least t + identity * (1 - t). Here t is the recognizer's threshold
    # for two faces of one person.
    identity: float = 0.5
    # The sharpness of the result must be at least (1 + sharper) times the sharpness of the original.
    sharper: float = 0.05
    # A result is rejected if its noise is above `clean_noise` and also above the noise of the original. A result is
    # also rejected if its blockiness is above `clean_blockiness` and above the blockiness of the original. We measured
    # 262 targets of 128 px that are not soft, from web photos. 98% of these targets have a noise below .75 and a
    # blockiness below 1.14.
    clean_noise: float = 0.75
    clean_blockiness: float = 1.14
    # The original and the result are averaged over squares with a side of an eighth of the distance between the eyes.
    # The root mean square difference of these averages must not be above `change`, in levels of 0..255. A difference in
    # fine detail hardly changes the averages. A larger difference of the averages means that the face itself has
    # changed.
    change: float = 6.0
    cell: int = 4  # the side of a square in pixels, if the crop has 128 px and the eyes are 32 px apart


@dataclass(frozen=True)
class CropMeasures:
    """Holds the measures of a crop at the restorer's size."""

    sharpness: float
    noise: float
    blockiness: float


def find_defect(sharpness: float, noise: float | None, blockiness: float, bounds: Bounds) -> str | None:
    """Returns the defect for which a target is cleaned: soft, noisy or blocky, or None for a good target.

    The arguments are the measures in the ledger. `noise` is None if the noise was not measured. Such a target is never
    called noisy.
    """
    if sharpness < bounds.soft:
        return "soft"
    if noise is not None and noise > bounds.noisy:
        return "noisy"
    return "blocky" if blockiness > bounds.blocky else None


def measure_crop(crop: np.ndarray, valid: np.ndarray | None = None) -> CropMeasures:
    """Measures a crop (S, S, 3), RGB uint8 in the FFHQ template.

    `valid`, bool (S, S), is True for the pixels that come from the photo. None means that all pixels come from the
    photo. Noise and blockiness are measured in the smallest rectangle that contains the pixels of `valid`. The left and
    the upper edge of the rectangle are moved outwards to the 8 px grid of JPEG blocks.
    """
    gray = compute_luma(crop)
    if valid is not None:
        (top, bottom), (left, right) = _find_ends(valid), _find_ends(valid.T)
        gray = gray[top - top % 8 : bottom, left - left % 8 : right]
    return CropMeasures(measure_sharpness(crop), measure_noise(gray), measure_blockiness(gray))


def _find_ends(valid: np.ndarray) -> tuple[int, int]:
    """Returns the first row with a true value, and the row after the last row with a true value, or (0, 0) if no value
    is true."""
    places = np.flatnonzero(np.asarray(valid.any(1)))
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def measure_change(original: np.ndarray, cleaned: np.ndarray, bounds: Bounds, valid: np.ndarray | None = None) -> float:
    """Returns how much the coarse content of a crop (S, S, 3) changed, in levels of 0..255. See `Bounds.change`.

    `valid`, bool (S, S), is True for the pixels that come from the photo. Only these pixels count. None means that all
    pixels come from the photo.
    """
    side = round(128 / bounds.cell)

    def average(crop: np.ndarray) -> np.ndarray:
        return cv2.resize(crop.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)

    squares = ((average(original) - average(cleaned)) ** 2).mean(2)
    # The weight of a square is the share of its pixels that are valid.
    weights = np.ones_like(squares) if valid is None else average(valid)
    return float(np.sqrt((squares * weights).sum() / max(weights.sum(), 1e-6)))


def compute_min_identity(same_person: float, bounds: Bounds) -> float:
    """Returns the lower bound for the cosine between the original and an accepted cleaned target.

    `same_person` is the recognizer's threshold for two faces of one person.
    """
    return same_person + bounds.identity * (1 - same_person)


def find_rejection(
    original: CropMeasures,
    best: CropMeasures,
    cleaned: CropMeasures,
    identity: float,
    change: float,
    min_identity: float,
    bounds: Bounds,
) -> str | None:
    """Returns one of REASONS if a cleaned target is rejected, or None if it is accepted.

    `best` has the measures of the newest accepted version, or of the original if no version was accepted. A cleaned
    target must be sharper than `best`. `identity` is the cosine between the original and the cleaned target. `change`
    is the value of `measure_change`, and `min_identity` is the value of `compute_min_identity`. If there are several
    reasons, the function returns the reason that it finds first.
    """
    if not all(map(np.isfinite, (cleaned.sharpness, cleaned.noise, cleaned.blockiness, identity, change))):
        return "not_a_number"
    if identity < min_identity:
        return "identity_fell"
    if change > bounds.change:
        return "content_changed"
    if cleaned.noise > max(original.noise, bounds.clean_noise):
        return "new_noise"
    if cleaned.blockiness > max(original.blockiness, bounds.clean_blockiness):
        return "new_blocks"
    if cleaned.sharpness < original.sharpness * (1 + bounds.sharper) or cleaned.sharpness <= best.sharpness:
        return "not_sharper"
    return None
