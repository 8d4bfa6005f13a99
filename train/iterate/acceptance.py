"""Decide which training targets are cleaned, and which cleaned versions are accepted. Every bound is ours.

IDM (arXiv 2307.08996) cleans its training set, but does not say how it decides which images to take.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from curate.faces.measure import compute_luma, measure_blockiness, measure_noise, measure_sharpness

# The version of the rule in `find_rejection`. Rule 1 required the margin in sharpness above the best version, rule 2
# requires it above the original.
RULE = 2
REASONS = ("identity_fell", "content_changed", "new_noise", "new_blocks", "not_sharper", "not_a_number")


@dataclass(frozen=True)
class Bounds:
    """The bounds by which targets are chosen for cleaning, and by which the results are accepted."""

    # A target beyond one of these is cleaned. The values are those of the filters `strict` (curate/config.py). Curation
    # measured the sharpness on the 512 px crop, noise and blockiness at the resolution of the photo.
    soft: float = 0.26
    noisy: float = 5.6
    blocky: float = 1.2
    # The cosine of original and result must lie this far between "the same person" and 1. 0.5 is half way.
    identity: float = 0.5
    # The sharpness must rise above the original's by this share. A smaller gain teaches a restorer nothing.
    sharper: float = 0.05
    # Noise and blockiness must not rise above the original's, or above these values of clean crops. At 128 px, 98% of
    # 262 targets from web photos that are not soft lie below .75 and 1.14.
    clean_noise: float = 0.75
    clean_blockiness: float = 1.14
    # Largest root mean square difference, in levels of 0..255, between original and result after both are averaged over
    # squares of an eighth of the distance between the eyes. A difference in fine detail does not count, a difference in
    # these averages means that the result shows something else.
    change: float = 6.0
    cell: int = 4  # side of such a square in pixels, at 128 px, where the eyes of the template are 32 px apart


@dataclass(frozen=True)
class CropMeasures:
    """The measures of a crop at the restorer's size."""

    sharpness: float
    noise: float
    blockiness: float


def find_defect(sharpness: float, noise: float | None, blockiness: float, bounds: Bounds) -> str | None:
    """Returns the defect for which a target is cleaned: soft, noisy or blocky, or None for a good target.

    The arguments are the measures in the ledger. A noise of None was not measured and is no defect.
    """
    if sharpness < bounds.soft:
        return "soft"
    if noise is not None and noise > bounds.noisy:
        return "noisy"
    return "blocky" if blockiness > bounds.blocky else None


def measure_crop(crop: np.ndarray) -> CropMeasures:
    """Measures a crop (S, S, 3), RGB uint8 in the FFHQ template."""
    gray = compute_luma(crop)
    return CropMeasures(measure_sharpness(crop), measure_noise(gray), measure_blockiness(gray))


def measure_change(original: np.ndarray, cleaned: np.ndarray, bounds: Bounds) -> float:
    """Returns how much the coarse content of a crop (S, S, 3) changed, in levels of 0..255. See `Bounds.change`."""
    side = round(128 / bounds.cell)

    def average(crop: np.ndarray) -> np.ndarray:
        return cv2.resize(crop.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)

    return float(np.sqrt(np.mean((average(original) - average(cleaned)) ** 2)))


def compute_min_identity(same_person: float, bounds: Bounds) -> float:
    """Returns the smallest cosine to the original with which a cleaned target is accepted.

    `same_person` is the recognizer's threshold for one person.
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
    """Returns why a cleaned target is rejected, one of REASONS, or None if it is accepted.

    `best` is the version that is in the training now, or the original if there is none: a cleaned target must be
    sharper. `identity` is the cosine to the original, `change` the value of `measure_change`, and `min_identity` the
    value of `compute_min_identity`. If several reasons hold, the most serious is returned.
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
