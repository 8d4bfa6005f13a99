"""Computes metrics for results that copy the face of a reference or show the wrong person."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from train.metrics.identity import unit_rows

# A reference and the target count as the same image if 1 minus their cosine is below this value (ours).
SAME_IMAGE_DISTANCE = 1e-3


def copy_ratio(restored: np.ndarray, target: np.ndarray, references: Sequence[np.ndarray]) -> list[float]:
    """Returns the copy ratio of each result (ours), its position between the target (0) and a reference (1).

    The arguments are embeddings: results x (B, d), targets t (B, d), and references r, (K, d) for each image. s is the
    cosine. Each reference has the value max(0, s(x, r) - max(s(x, t), s(t, r))) / (1 - s(t, r)), and at most 1. The
    copy ratio is the largest of these values. The ratio is 0 if the result is equal to the target. The ratio is also 0
    if every reference is nearer to the target than to the result. The ratio is 1 if the result is equal to a reference.
    A reference that is the same image as the target is ignored. The ratio is NaN if all references are ignored.
    """
    ratios = []
    for result, truth, own in zip(unit_rows(restored), unit_rows(target), references, strict=True):
        shared, near = (unit_rows(own) @ one if len(own) else np.empty(0) for one in (truth, result))
        distinct = 1 - shared >= SAME_IMAGE_DISTANCE
        beyond = near[distinct] - np.maximum(result @ truth, shared[distinct])
        clipped = np.clip(beyond / (1 - shared[distinct]), 0, 1)
        ratios.append(float(clipped.max()) if len(clipped) else math.nan)
    return ratios


def takeover(restored: np.ndarray, target: np.ndarray, wrong: Sequence[np.ndarray]) -> list[float]:
    """Returns 1 for each result that is nearer to a wrong reference than to the target, otherwise 0.

    The arguments are the embeddings of the results (B, d), of the targets (B, d), and of K wrong references (K, d) for
    each image. The result is 0 if the two distances are equal. The result is NaN if K is 0. The mean over images is the
    takeover rate.
    """
    results = zip(unit_rows(restored), unit_rows(target), wrong, strict=True)
    return [
        float(bool((unit_rows(own) @ result > result @ truth).any())) if len(own) else math.nan
        for result, truth, own in results
    ]
