"""Computes two metrics: whether a result copies the face of a reference, and whether a result shows the wrong
person."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from train.metrics.identity import unit_rows

# A reference and the target count as the same image if 1 minus their cosine is below this value (ours).
SAME_IMAGE_DISTANCE = 1e-3


def copy_ratio(restored: np.ndarray, target: np.ndarray, references: Sequence[np.ndarray]) -> list[float]:
    """Returns the copy ratio of each result (ours): 0 for a result like the target, 1 for a result like a reference.

    The arguments are embeddings: results x (B, d), targets t (B, d), and references r, (K, d) for each image. Let s be
    the cosine. The ratio is the largest value of max(0, s(x, r) - max(s(x, t), s(t, r))) / (1 - s(t, r)) over the
    references r, and at most 1. The ratio is 0 if every reference is nearer to the target than to the result. A
    reference that is the same image as the target is ignored. The ratio is NaN if no reference is left.
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
    each image. The value is NaN if K is 0. The mean over images is the takeover rate.
    """
    results = zip(unit_rows(restored), unit_rows(target), wrong, strict=True)
    return [
        float(bool((unit_rows(own) @ result > result @ truth).any())) if len(own) else math.nan
        for result, truth, own in results
    ]
