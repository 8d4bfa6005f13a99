"""Computes the metrics that have one value for a whole set of images, without an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as remember
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from manifests.errors import BadInput
from manifests.pictures.untrusted_images import open_reader
from manifests.runtime.files import sha256_file
from manifests.runtime.text import make_printable
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.cached_measure import CachedMeasure
from train.evaluation.cache.keys import hash_inputs
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.aggregate import Average
from train.evaluation.results.ntire_score import NAME, add_score
from train.evaluation.sets.cases import Case
from train.metrics.fid import inception
from train.metrics.fid.conventions import DEFAULT, check_convention
from train.metrics.fid.statistics import Statistics, compute_distance, measure_statistics, read_statistics
from train.metrics.registry import INCEPTION, METRICS
from train.restore.output_paths import list_photos

# The metrics that need an option of `likeness evaluate`: metric -> option.
_NEEDED_OPTIONS = {"fid_folder": "--fid-folder", "fid_statistics": "--fid-statistics"}


def read_set_options(options: EvaluationOptions) -> tuple[EvaluationOptions, Statistics | None]:
    """Adds the convention of FID to the options. Returns the new options, and the statistics in the file
    `options.fid_statistics`.

    The convention is the one that the user named, or the one of the statistics, or the default. Raises BadInput if an
    option of FID is wrong, or if no chosen metric reads it. A wrong file of statistics is therefore an error before
    anything is measured.
    """
    for name, option in _NEEDED_OPTIONS.items():
        if _get_source(options, name) is not None and name not in options.metrics:
            raise BadInput(f"Only the metric {name} reads {option}. Add {name} to --metrics.")
    if options.fid_folder is not None and not options.fid_folder.is_dir():
        raise BadInput(
            f"{make_printable(options.fid_folder)} is not a folder. Give a folder of images with --fid-folder."
        )
    if options.fid_convention is not None:
        check_convention(options.fid_convention)
        if not any(METRICS[name].requirement == INCEPTION for name in options.metrics):
            raise BadInput("No chosen metric is an FID, so nothing reads --fid-convention. Add fid to --metrics.")
    given = None if options.fid_statistics is None else _read_given_statistics(options.fid_statistics, options)
    named = options.fid_convention or (None if given is None else given.convention)
    return replace(options, fid_convention=named or DEFAULT), given


def explain_missing_options(options: EvaluationOptions) -> dict[str, str]:
    """Returns the metrics that cannot be measured because an option is missing, each with the reason."""
    return {
        name: f"{name} needs something to compare with: give {option}."
        for name, option in _NEEDED_OPTIONS.items()
        if name in options.metrics and _get_source(options, name) is None
    }


@dataclass(frozen=True)
class MeasuredSet:
    """Holds what the metrics of whole sets read."""

    images_by_key: Mapping[str, list[np.ndarray]]  # the images of each system, by the key of the system
    cases: Sequence[Case]
    options: EvaluationOptions  # `read_set_options` returns `options` and `statistics`
    statistics: Statistics | None
    measure: CachedMeasure
    cache: EvaluationCache
    # Called with each picture of `options.fid_folder`; the result of `keep` is used in place of the picture.
    keep: Callable[[np.ndarray], np.ndarray]


def add_set_metrics(names: Sequence[str], averages: Sequence[Average], measured: MeasuredSet) -> dict[str, str]:
    """Adds the metrics `names` (FIDs or the NTIRE score) to the average of each system.

    Returns the metrics that cannot be measured, each with the reason. The key `against` of a value says with what the
    images were compared, so that values against different images are never put into one table.
    """
    missing = {}
    for name in names:
        try:
            if name == NAME:
                add_score(averages, measured.options.fid_convention or DEFAULT)
            else:
                _add_fid(name, averages, measured)
        except BadInput as error:
            missing[name] = str(error)
    return missing


def _add_fid(name: str, averages: Sequence[Average], measured: MeasuredSet) -> None:
    """Adds one FID to the average of each system. Raises BadInput if the FID cannot be measured."""
    options, others, given = measured.options, list[np.ndarray](), None
    convention = options.fid_convention or DEFAULT
    if name == "fid_statistics":
        assert measured.statistics is not None
        given = measured.statistics
        compared = [given.mean, given.covariance]
    else:
        others = compared = _read_others(name, measured)
    count = given.images if given is not None else len(others)
    against: dict[str, Any] = {"images": count, "sha256": hash_inputs(*compared)}
    # The key of a value contains the convention, because the value depends on the convention.
    key_parts: list[str | np.ndarray] = [convention, *compared]

    @remember
    def load_network() -> nn.Module:
        return inception.load_inception(options.weights, convention)

    @remember
    def measure_others() -> Statistics:
        return given or measure_statistics(others, load_network(), "other images")

    for average in averages:
        if not (images := measured.images_by_key.get(average["key"], [])):
            average[name] = None
            continue

        def compute(images: Sequence[np.ndarray] = images) -> float:
            return compute_distance(measure_statistics(images, load_network(), "restored images"), measure_others())

        mean = measured.measure.compute_set_metric(name, images, key_parts, measured.cache, compute)
        average[name] = {"mean": mean, "images": len(images), "against": against}


def _get_source(options: EvaluationOptions, name: str) -> object:
    return options.fid_folder if name == "fid_folder" else options.fid_statistics


def _read_others(name: str, measured: MeasuredSet) -> list[np.ndarray]:
    if name == "fid":
        return [case.target for case in measured.cases if case.target is not None]
    folder = measured.options.fid_folder
    assert folder is not None
    with open_reader(limited=True) as read:
        return [measured.keep(read(path)) for path in list_photos(folder)]


def _read_given_statistics(path: Path, options: EvaluationOptions) -> Statistics:
    file = inception.find_inception(options.weights)
    sha256 = None if file is None else sha256_file(file)
    return read_statistics(path, inception.FEATURES, options.fid_convention, sha256)
