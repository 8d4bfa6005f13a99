"""Is a cleaned training target better than what it was made from? Measured bounds, all ours, and a reason where not.

IDM (arXiv 2307.08996) cleans its training set and published no rule by which an image is taken; these are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from curate.faces.measure import compute_luma, measure_blockiness, measure_noise, measure_sharpness

RULE = 2  # of `refused`; 1 asked for the margin above the best version, not above the original
REASONS = ("identity_fell", "content_changed", "new_noise", "new_blocks", "not_sharper", "not_a_number")


@dataclass(frozen=True)
class Bounds:
    """Which targets are restored, and which of the results are kept."""

    # a target with one of these is restored; the figures of the filters `strict` (curate/config.py), as curation
    # recorded them: sharpness of the 512 px crop, the others at the photo's own pixels
    soft: float = 0.26
    noisy: float = 5.6
    blocky: float = 1.2
    # how far from "the same person" to "the same picture" the cosine of original and result must lie: .5 is half way
    identity: float = 0.5
    # the original's sharpness must rise by this share: less is nothing that a restorer could learn from
    sharper: float = 0.05
    # noise and blockiness must not rise, above what clean crops of 128 px have: of 262 targets of web photos that are
    # not soft 98% read less than .75 and 1.14
    clean_noise: float = 0.75
    clean_blockiness: float = 1.14
    # root mean square difference of original and result, both averaged over squares of an eighth of the eyes'
    # distance, of 0..255: what is sharper there has only moved detail, what has changed there is another picture
    change: float = 6.0
    cell: int = 4  # pixels of such a square at 128 px, where the eyes of the template lie 32 px apart


@dataclass(frozen=True)
class CropMeasures:
    """What is measured of a crop at the restorer's size, before and after."""

    sharpness: float
    noise: float
    blockiness: float


def defect(sharpness: float, noise: float | None, blockiness: float, bounds: Bounds) -> str | None:
    """What a target is restored for, by its recorded measures; None for a good one. A noise never measured is none."""
    if sharpness < bounds.soft:
        return "soft"
    if noise is not None and noise > bounds.noisy:
        return "noisy"
    return "blocky" if blockiness > bounds.blocky else None


def figures(crop: np.ndarray) -> CropMeasures:
    """Of a crop (S, S, 3), RGB uint8 in the FFHQ template."""
    gray = compute_luma(crop)
    return CropMeasures(measure_sharpness(crop), measure_noise(gray), measure_blockiness(gray))


def change(original: np.ndarray, cleaned: np.ndarray, bounds: Bounds) -> float:
    """How much the coarse content of a crop (S, S, 3) changed, 0..255."""
    side = round(128 / bounds.cell)

    def coarse(crop: np.ndarray) -> np.ndarray:
        return cv2.resize(crop.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)

    return float(np.sqrt(np.mean((coarse(original) - coarse(cleaned)) ** 2)))


def least_identity(same_person: float, bounds: Bounds) -> float:
    """The cosine that a cleaned target must have to its original, by the recognizer whose figure for one person is
    `same_person`."""
    return same_person + bounds.identity * (1 - same_person)


def refused(
    original: CropMeasures,
    best: CropMeasures,
    cleaned: CropMeasures,
    identity: float,
    changed: float,
    least: float,
    bounds: Bounds,
) -> str | None:
    """Why a cleaned target is not kept, one of REASONS, the gravest first; None where it is.

    `best` is the version that is trained on now, the original where there is none: the new one must be sharper than it.
    `identity` is the cosine to the original, `changed` what `change` says, `least` what `least_identity` says.
    """
    if not all(map(np.isfinite, (cleaned.sharpness, cleaned.noise, cleaned.blockiness, identity, changed))):
        return "not_a_number"
    if identity < least:
        return "identity_fell"
    if changed > bounds.change:
        return "content_changed"
    if cleaned.noise > max(original.noise, bounds.clean_noise):
        return "new_noise"
    if cleaned.blockiness > max(original.blockiness, bounds.clean_blockiness):
        return "new_blocks"
    if cleaned.sharpness < original.sharpness * (1 + bounds.sharper) or cleaned.sharpness <= best.sharpness:
        return "not_sharper"
    return None
