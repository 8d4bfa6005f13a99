"""Computes identity metrics from embeddings of a recognizer: cosines and angles to the target and to the references."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# In degrees. If the angle between two embeddings is smaller, VQFR's script leaves the pair of faces out, because the
# two faces may be one image.
SAME_IMAGE_ANGLE = 1.0


def id_target(restored: np.ndarray, target: np.ndarray) -> list[float]:
    """Returns the cosine between each of B embeddings (B, d) and the embedding of its target (B, d). Higher is
    better."""
    return [float(cosine) for cosine in (unit_rows(restored) * unit_rows(target)).sum(1)]


def same_person(restored: np.ndarray, target: np.ndarray, threshold: float) -> list[float]:
    """Returns a value for each of B restored faces: 1 if its `id_target` is `threshold` or more, otherwise 0.
    `restored` and `target` are embeddings (B, d).

    The mean of the values is the share of faces that the recognizer counts as the person of the target.
    """
    return [float(cosine >= threshold) for cosine in id_target(restored, target)]


def id_references(restored: np.ndarray, references: Sequence[np.ndarray]) -> list[float]:
    """Returns the mean cosine between each of B embeddings (B, d) and the embeddings (K, d) of its K references.

    ReFine calls this mean IPS. The mean is NaN if K is 0. An image that copies a reference also has a high mean, so
    read the mean together with `id_target`.
    """
    return [
        float((unit_rows(own) @ one).mean()) if len(own) else math.nan
        for one, own in zip(unit_rows(restored), references, strict=True)
    ]


def angle_degrees(restored: np.ndarray, target: np.ndarray, least: float = 0.0) -> list[float]:
    """Returns the angle in degrees between each of B embeddings (B, d) and the embedding of its target (B, d).

    Lower is better. An angle below `least` degrees becomes NaN. The formula for unit vectors is 2 atan2(|a - b|, |a +
    b|). Near 0, this formula is accurate and the arc cosine is not (Kahan 2006).
    """
    a, b = unit_rows(restored), unit_rows(target)
    apart, together = np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
    return [float(angle) if angle >= least else math.nan for angle in np.degrees(2 * np.arctan2(apart, together))]


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scales each row to length 1, in float64. A row of zeros does not change."""
    rows = np.asarray(rows, np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
