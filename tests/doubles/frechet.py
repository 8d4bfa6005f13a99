"""Computes the Fréchet distance of two sets of images with the functions of the product."""

from collections.abc import Iterable

import numpy as np
from torch import nn

from train.metrics.fid.statistics import compute_distance, measure_statistics


def frechet_distance(restored: Iterable[np.ndarray], others: Iterable[np.ndarray], network: nn.Module) -> float:
    reference = measure_statistics(others, network, "other images")
    return compute_distance(measure_statistics(restored, network, "restored images"), reference)
