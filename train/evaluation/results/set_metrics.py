"""Computes the metrics that have one value for a whole set of images, without an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from manifests.pictures.untrusted_images import open_reader
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.cached_measure import CachedMeasure
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.aggregate import Average
from train.evaluation.sets.cases import Case
from train.metrics.fid import fid
from train.restore.output_paths import list_photos


def add_set_metric(
    name: str,
    averages: Sequence[Average],
    images_by_key: Mapping[str, list[np.ndarray]],
    cases: Sequence[Case],
    options: EvaluationOptions,
    measure: CachedMeasure,
    cache: EvaluationCache,
) -> None:
    """Adds the metric `name`, fid or fid_folder, to the average of each system.

    `images_by_key` has the images of each system, by the key of the system. Raises BadInput if the metric cannot be
    measured.
    """
    others = [case.target for case in cases if case.target is not None]
    if name == "fid_folder":
        assert options.fid_folder is not None
        with open_reader(limited=True) as read:
            others = [read(path) for path in list_photos(options.fid_folder)]
    for average in averages:
        if not (images := images_by_key.get(average["key"], [])):
            average[name] = None
            continue
        compute = partial(fid, images, others, options.weights)
        mean = measure.compute_set_metric(name, images, others, cache, compute)
        average[name] = {"mean": mean, "images": len(images)}
