"""Whether a result took its face from a reference: copied the right person's photo, or became the wrong person."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from train.metrics.identity import unit_rows

# 1 less the cosine between a reference and the target under which the two cannot be told apart (ours)
COINCIDE = 1e-3


def copy_ratio(restored: np.ndarray, target: np.ndarray, references: Sequence[np.ndarray]) -> list[float]:
    """How much nearer each result is to a reference than to the target, beyond what target and reference share (ours).

    With cosines s of embeddings, results x (B, d), targets t (B, d) and references r, (K, d) an image:
    max(0, s(x, r) - max(s(x, t), s(t, r))) / (1 - s(t, r)), the largest over the references. It goes from 0, for the
    target itself and all that is no nearer to a reference than the target is, to 1 for a reference itself. A reference
    that coincides with the target says nothing; NaN where there is no other.
    """
    ratios = []
    for result, truth, own in zip(unit_rows(restored), unit_rows(target), references, strict=True):
        shared, near = (unit_rows(own) @ one if len(own) else np.empty(0) for one in (truth, result))
        telling = 1 - shared >= COINCIDE
        beyond = near[telling] - np.maximum(result @ truth, shared[telling])
        found = np.clip(beyond / (1 - shared[telling]), 0, 1)
        ratios.append(float(found.max()) if len(found) else math.nan)
    return ratios


def takeover(restored: np.ndarray, target: np.ndarray, wrong: Sequence[np.ndarray]) -> list[float]:
    """1 where a result is nearer to any wrong reference than to the target, else 0; the mean is the takeover rate.

    Embeddings (B, d), (B, d) and (K, d) an image; NaN where K is 0. Equally near is no takeover.
    """
    results = zip(unit_rows(restored), unit_rows(target), wrong, strict=True)
    return [
        float(bool((unit_rows(own) @ result > result @ truth).any())) if len(own) else math.nan
        for result, truth, own in results
    ]
