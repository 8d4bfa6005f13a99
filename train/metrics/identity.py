"""Identity by a recognizer's embeddings: to the target, to the references, as a cosine and as an angle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from curate.faces.align import crop_for_recognizer
from curate.faces.interface import FaceModels

SAME_IMAGE = 1.0  # degrees: VQFR's script takes a pair under it for the same picture and leaves it out


def embedding(image: np.ndarray, judge: FaceModels) -> np.ndarray:
    """float32 (d,) of length 1, of an aligned face, RGB uint8 (S, S, 3). No detector is asked."""
    return np.asarray(judge.embed(crop_for_recognizer(image, judge.template, judge.size)[None])[0])


def id_target(restored: np.ndarray, target: np.ndarray) -> list[float]:
    """Cosines between embeddings (B, d) and (B, d); higher is better."""
    return [float(cosine) for cosine in (unit_rows(restored) * unit_rows(target)).sum(1)]


def id_references(restored: np.ndarray, references: Sequence[np.ndarray]) -> list[float]:
    """IPS (ReFine): the mean cosine between each of (B, d) and its own references (K, d); NaN where K is 0.

    What copies a reference has the highest there is, so it says little without `id_target` beside it.
    """
    return [
        float((unit_rows(own) @ one).mean()) if len(own) else math.nan
        for one, own in zip(unit_rows(restored), references, strict=True)
    ]


def angle_degrees(restored: np.ndarray, target: np.ndarray, least: float = 0.0) -> list[float]:
    """Angles in degrees between embeddings (B, d) and (B, d); lower is better. NaN below `least`.

    2 atan2(|a - b|, |a + b|) of unit vectors (Kahan 2006): the arc cosine, exact near 0 as well.
    """
    a, b = unit_rows(restored), unit_rows(target)
    apart, together = np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
    return [float(angle) if angle >= least else math.nan for angle in np.degrees(2 * np.arctan2(apart, together))]


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float64 rows of length 1."""
    rows = np.asarray(rows, np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
