"""Measures the detail of a face in a band of frequencies, and how well a restored face agrees with its input.

Frequencies are in cycles per crop. A crop of S pixels holds frequencies up to S / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from curate.faces.align import (
    FFHQ_512,
    FFHQ_SIZE,
    compute_scale,
    fit_similarity,
    invert_affine,
    transform_points,
)
from curate.faces.measure import compute_luma, crop_inner_face, measure_noise

# The corners (x, y) of the inner face of curate.faces.measure.crop_inner_face, as fractions of the crop.
_INNER_CORNERS = np.array([[0.25, 0.35], [0.75, 0.35], [0.75, 0.85], [0.25, 0.85]])
# A detail below this number of levels (ours) is too small for a reliable ratio. `measure_sharpness_ratio` then uses
# this number, and `measure_fineness` returns 0. Levels are from 0 to 255.
_SMALLEST_DETAIL = 0.1
# `measure_noise` returns up to 4 levels for sharp skin and hair without noise, so only values above this number (ours)
# count as noise.
_UNCERTAIN_NOISE = 4.0
# Standard deviations (ours) of the blurs that an input can have, in pixels at the resolution of the input.
_BLURS = (0.0, 0.35, 0.7, 1.4)
# A restored face has new noise if its noise is more than this factor (ours) times the noise of its input. A smaller
# increase counts as detail, because `measure_noise` also measures detail.
_MORE_NOISE = 1.25
# The variance of the error that is made when values are rounded to whole levels.
_ROUNDING = 1 / 12


@dataclass(frozen=True)
class InputFace:
    """Holds one face of a photo before its restoration."""

    crop: np.ndarray  # uint8 (S, S, 3): the face at the restorer's size, aligned to the FFHQ template.
    own_size: float  # The number of photo pixels along a side of the crop.
    noise: float  # Standard deviation of the noise of the photo, in levels of 0 to 255.


def describe_face(image: np.ndarray, landmarks5: np.ndarray, crop: np.ndarray) -> InputFace:
    """Returns the face that has the landmarks `landmarks5` (5, 2) in an image, uint8 (H, W, 3).

    `crop` is the aligned face at the restorer's size, uint8 (S, S, 3).
    """
    to_crop = fit_similarity(landmarks5, FFHQ_512)
    # The noise is measured in the photo and not in the crop, because the alignment smooths noise.
    corners = transform_points(_INNER_CORNERS * FFHQ_SIZE, invert_affine(to_crop))
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    x1, y1 = np.maximum(np.ceil(corners.max(0)).astype(int), 0)
    part = np.ascontiguousarray(image[y0:y1, x0:x1])
    return InputFace(crop, FFHQ_SIZE / compute_scale(to_crop), measure_noise(compute_luma(part)) if part.size else 0.0)


def describe_crop(image: np.ndarray, crop: np.ndarray) -> InputFace:
    """Returns the face of an aligned image, uint8 (N, N, 3). `crop` is the image at the restorer's size."""
    return InputFace(crop, float(image.shape[0]), measure_noise(compute_luma(crop_inner_face(image))))


def measure_detail(crop: np.ndarray, low: float, high: float, noise: float, own_size: float) -> float:
    """Returns the detail of the inner face of a crop, uint8 (S, S, 3), from `low` to `high` cycles per crop (ours).

    The detail is the standard deviation of the luma in this band, in levels of 0 to 255. The part that white noise adds
    is subtracted. `noise` is the standard deviation of the noise in the photo. In the photo, a side of the crop has
    `own_size` pixels.
    """
    size, gray = crop.shape[0], compute_luma(crop_inner_face(crop))
    # The squares of the window have the sum 1, so that white noise of variance v gives a mean power of v.
    window = np.outer(np.hanning(gray.shape[0]), np.hanning(gray.shape[1]))
    window /= np.sqrt((window**2).sum()) or 1.0
    mean = float((gray * window).sum() / (window.sum() or 1.0))
    power = np.abs(np.fft.fft2((gray - mean) * window)) ** 2 / gray.size
    fy, fx = (np.fft.fftfreq(side)[:, None] * size for side in gray.shape)
    in_band = _in_ring(fy, fx.T, low, high)
    # The power of the noise is spread evenly over the frequencies that an image with `own_size` pixels can hold.
    step = np.linspace(-high, high, 65)
    ring = _in_ring(step[:, None], step[None], low, high)
    ring &= (np.abs(step[:, None]) <= own_size / 2) & (np.abs(step[None]) <= own_size / 2)
    variance = max(noise**2 - _UNCERTAIN_NOISE**2, 0.0) + _ROUNDING
    of_noise = variance * float(ring.mean()) * (2 * high) ** 2 / own_size**2
    return float(np.sqrt(max(float(power[in_band].sum()) - of_noise, 0.0)))


def measure_fineness(face: InputFace) -> float:
    """Returns the fineness of a face (ours), which tells how strong the finest detail of the face is.

    The fineness is the detail of the last octave, S/4 to S/2 cycles per crop, divided by the detail from S/16 to S/8.
    In a sharp photo, the fineness is about one half. We measured 20 references and 14 LQ faces of published photos at S
    = 256. The side of each crop has 385 photo pixels or more. The fineness of 18 of the references is .30 to .52. The
    fineness of all LQ faces is .03 to .13.
    """
    size = face.crop.shape[0]
    fine, coarse = (
        measure_detail(face.crop, size / low, size / high, face.noise, face.own_size) for low, high in ((4, 2), (16, 8))
    )
    return fine / coarse if coarse > _SMALLEST_DETAIL else 0.0


def measure_sharpness_ratio(face: InputFace, result: np.ndarray) -> float:
    """Returns the sharpness of `result`, uint8 (S, S, 3), divided by the sharpness of the input (ours).

    `result` is the restored face. The sharpness is the detail from S/8 to S/4 cycles per crop. Noise and the blocks of
    JPEG add little to this band. The noise of the input, and new noise in `result`, do not count as sharpness.
    """
    size = result.shape[0]
    before = measure_detail(face.crop, size / 8, size / 4, face.noise, face.own_size)
    luma_before, luma_after = (compute_luma(crop_inner_face(crop)) for crop in (face.crop, result))
    # `face.noise` was measured in the photo. `left` is the share of this noise that `result` still has.
    left = _find_share_of_noise(luma_before, luma_after)
    after = measure_detail(result, size / 8, size / 4, left * face.noise, face.own_size)
    noise_before, noise_after = measure_noise(luma_before), measure_noise(luma_after)
    if noise_after > _MORE_NOISE * noise_before:
        after = min(after, measure_detail(result, size / 8, size / 4, noise_after, size))
    return max(after, _SMALLEST_DETAIL) / max(before, _SMALLEST_DETAIL)


def estimate_resolution(face: InputFace) -> int:
    """Returns the smallest side to which the input crop can be shrunk without loss of detail: S/16 (ours) to S pixels.

    In a sharp photo, all half octaves have about the same detail. The two half octaves from S/32 to S/16 cycles per
    crop give the usual detail of the face. A higher half octave counts as lost if it has less than a quarter of this
    detail, or if the photo has too few pixels for it. All frequencies above a lost half octave count as lost too.
    """
    size = face.crop.shape[0]
    coarse = measure_detail(face.crop, size / 32, size / 16, face.noise, face.own_size) / np.sqrt(2)
    edge = size / 16.0
    while edge < size / 2 - 1:
        finer = edge * np.sqrt(2)
        if finer > face.own_size / 2 or (
            measure_detail(face.crop, edge, finer, face.noise, face.own_size) < 0.25 * coarse
        ):
            break
        edge = finer
    return int(np.clip(round(2 * edge), size // 16, size))


def measure_agreement(face: InputFace, result: np.ndarray) -> float:
    """Returns the PSNR in dB between the inner faces of the input and of `result`, both at the input's resolution.

    `result` is the restored face, uint8 (S, S, 3). The blur of the input is unknown. Therefore `result` is blurred with
    each of `_BLURS` and shrunk by area averages, and the highest PSNR counts (ours).
    """
    size, resolution = face.crop.shape[0], estimate_resolution(face)
    side = max(resolution // 2, 1)  # the inner face is half as wide as the crop

    def shrink_face(image: np.ndarray) -> np.ndarray:
        return cv2.resize(crop_inner_face(image), (side, side), interpolation=cv2.INTER_AREA).astype(np.float64)

    before, errors = shrink_face(face.crop), list[float]()
    for blur in _BLURS:
        blurred = cv2.GaussianBlur(result, (0, 0), blur * size / resolution) if blur else result
        errors.append(float(((before - shrink_face(blurred)) ** 2).mean()))
    return float(10 * np.log10(255**2 / max(min(errors), 1e-2)))


def _find_share_of_noise(before: np.ndarray, after: np.ndarray) -> float:
    """Returns which share of the finest variation of the luma `before` (H, W) is left in the luma `after`, 0 to 1.

    The share is 1 if `before` and `after` are equal.
    """
    fine, kept = (cv2.Laplacian(luma, cv2.CV_32F) for luma in (before, after))
    power = float((fine * fine).sum())
    return float(np.clip((fine * kept).sum() / power, 0, 1)) if power else 1.0


def _in_ring(fy: np.ndarray, fx: np.ndarray, low: float, high: float) -> np.ndarray:
    radius = np.hypot(fy, fx)
    return (radius >= low) & (radius < high)
