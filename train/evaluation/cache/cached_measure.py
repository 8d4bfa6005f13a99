"""Keeps the values of metrics in the cache of an evaluation."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from curate.faces.interface import FaceModels
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import ArrayHashes, hash_faces, hash_files, hash_inputs
from train.metrics.measure import (
    Measure,
    build_measure,
    explain_missing,
    find_weights,
    reads_judge,
    reads_lq,
    reads_references,
    select_names,
)
from train.metrics.registry import METRICS


class CachedMeasure:
    """Measures images, and reads the values that are in a cache.

    The key of a value is a hash of the images that the metric reads, of the metric's convention, and of the files of
    its networks. If the metric uses the judge, the key depends on the judge too. The networks are loaded only when a
    value is not in the cache.
    """

    def __init__(
        self,
        names: Sequence[str],
        judge: FaceModels,
        weights: Path | None,
        most_references: int,
        cache: EvaluationCache,
    ) -> None:
        """Finds out which metrics can be computed. Raises the errors of `build_measure`."""
        self._most_references, self._hashes = most_references, ArrayHashes()
        self._build = functools.cache(functools.partial(build_measure, names, judge, weights, most_references))
        judge_hash, hash_once = hash_faces(judge), functools.cache(hash_files)
        self._metrics: dict[str, str] = {}  # metric -> hash of its convention, its files and its judge
        for name in names:
            used_judge = judge_hash if reads_judge(name) else None
            files = hash_once(find_weights(name, weights))
            self._metrics[name] = hash_inputs(name, METRICS[name].convention, used_judge, files)
        # To find out whether a file can be loaded takes seconds, so the cache keeps which files were loaded. The cache
        # keeps no failure, because the user may repair a failure by a new package, which the key does not contain.
        self.missing = {name: reason for name in names if (reason := explain_missing(name, weights)) is not None}
        keys = {name: hash_inputs("loaded", self._metrics[name]) for name in names if name not in self.missing}
        if any(cache.get(key) is None for key in keys.values()):
            self.missing |= self._build()[1]
            for name in keys.keys() - self.missing.keys():
                cache.put(keys[name], b"")

    def read_from(self, cache: EvaluationCache) -> Measure:
        """Returns the function that measures an image and uses this cache."""
        names = [name for name in self._metrics if name not in self.missing and METRICS[name].scope != "set"]

        def measure(
            restored: np.ndarray,
            target: np.ndarray | None,
            references: Sequence[np.ndarray],
            wrong: Sequence[np.ndarray] = (),
            valid: np.ndarray | None = None,
            only: Collection[str] | None = None,
            lq: np.ndarray | None = None,
        ) -> dict[str, float]:
            find = self._hashes.find
            pair, of_lq = hash_inputs(find(restored), find(target), find(valid)), find(lq)
            of_references = hash_inputs(*map(find, references[: self._most_references]))
            of_wrong = hash_inputs(*map(find, wrong))
            keys = {
                name: hash_inputs(
                    "value",
                    self._metrics[name],
                    pair,
                    of_references if reads_references(name) else None,
                    of_wrong if METRICS[name].scope == "wrong" else None,
                    of_lq if reads_lq(name) else None,
                )
                for name in select_names(names, bool(wrong), only, target is not None, lq is not None)
            }
            entries = {name: cache.get(key) for name, key in keys.items()}
            values = {name: struct.unpack("<d", entry)[0] for name, entry in entries.items() if entry is not None}
            missing = [name for name in keys if name not in values]
            if missing:
                values |= self._build()[0](restored, target, references, wrong, valid, missing, lq)
                for name in missing:
                    cache.put(keys[name], struct.pack("<d", values[name]))
            return {name: values[name] for name in keys}

        return measure

    def compute_set_metric(
        self,
        name: str,
        images: Iterable[np.ndarray],
        others: Iterable[np.ndarray],
        cache: EvaluationCache,
        compute: Callable[[], float],
    ) -> float:
        """Returns the value of a metric that compares the set `images` with the set `others`.

        The value comes from the cache, or from `compute` if it is not in the cache.
        """
        key = hash_inputs("set", self._metrics[name], hash_inputs(*images), hash_inputs(*others))
        entry = cache.get(key)
        value = compute() if entry is None else struct.unpack("<d", entry)[0]
        if entry is None:
            cache.put(key, struct.pack("<d", value))
        return float(value)
