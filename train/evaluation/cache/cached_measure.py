"""Keeps the values of metrics in the cache of an evaluation."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from curate.faces.errors import is_out_of_memory
from curate.faces.interface import FaceModels
from manifests.runtime.text import format_count
from train.data.tensors import to_tensors
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import ArrayHashes, hash_faces, hash_files, hash_inputs
from train.metrics.measure import (
    Measure,
    build_measure,
    cover_invalid,
    describe_convention,
    explain_missing,
    find_weights,
    reads_judge,
    reads_lq,
    reads_references,
    select_names,
)
from train.metrics.networks.no_reference import WEIGHTS, load_no_reference
from train.metrics.readers import FaceCache, MeasuredCase
from train.metrics.registry import METRICS

QUALITY_BATCH = 8  # The number (ours) of images whose quality is measured at once.


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
        border: int = 0,
    ) -> None:
        """Finds out which metrics can be computed. Raises the errors of `build_measure`."""
        self._most_references, self._hashes, self._faces = most_references, ArrayHashes(), FaceCache(judge)
        device = "cuda" if torch.cuda.is_available() else "cpu"  # as for the restorer
        self._load_score = functools.cache(functools.partial(load_no_reference, weights=weights, device=device))
        self._batch_size = QUALITY_BATCH
        inputs = (names, judge, weights, most_references, self._load_score, border, self._faces)
        self._build = functools.cache(functools.partial(build_measure, *inputs))
        judge_hash, hash_once = hash_faces(judge), functools.cache(hash_files)
        self._metrics: dict[str, str] = {}  # metric -> hash of its convention, its files and its judge
        for name in names:
            used_judge = judge_hash if reads_judge(name) else None
            files = hash_once(find_weights(name, weights))
            self._metrics[name] = hash_inputs(name, describe_convention(name, border), used_judge, files)
        # A test whether a network can be loaded takes seconds, so the cache keeps the successes. The cache does not
        # keep a failure: the user can install the package that was missing, and the key does not depend on packages.
        self.missing = {name: reason for name in names if (reason := explain_missing(name, weights)) is not None}
        keys = {name: hash_inputs("loaded", self._metrics[name]) for name in names if name not in self.missing}
        if any(cache.get(key) is None for key in keys.values()):
            self.missing |= self._build()[1]
            for name in keys.keys() - self.missing.keys():
                cache.put(keys[name], b"")

    def read_from(self, cache: EvaluationCache) -> Measure:
        """Returns the function that measures an image and uses this cache."""

        def measure(
            restored: np.ndarray,
            target: np.ndarray | None,
            references: Sequence[np.ndarray],
            wrong: Sequence[np.ndarray] = (),
            valid: np.ndarray | None = None,
            only: Collection[str] | None = None,
            lq: np.ndarray | None = None,
        ) -> dict[str, float]:
            case = MeasuredCase(restored, target, tuple(references), tuple(wrong), valid, lq)
            keys = self._make_keys(case, only)
            entries = {name: cache.get(key) for name, key in keys.items()}
            values = {name: struct.unpack("<d", entry)[0] for name, entry in entries.items() if entry is not None}
            missing = [name for name in keys if name not in values]
            if missing:
                values |= self._build()[0](restored, target, references, wrong, valid, missing, lq)
                for name in missing:
                    cache.put(keys[name], struct.pack("<d", values[name]))
            return {name: values[name] for name in keys}

        return measure

    def analyse_faces(self, images: Iterable[MeasuredCase], cache: EvaluationCache) -> None:
        """Lets the judge embed and search many images in batches. `read_from` then finds the results in memory.

        Each of `images` is a restored image, together with the images with which the metrics compare it. The judge sees
        only the images of metrics whose values are not in the cache.
        """
        of_judge = [name for name in self._metrics if reads_judge(name)]
        cases = []
        for case in images if of_judge else ():
            keys = self._make_keys(case, of_judge)
            if names := [name for name, key in keys.items() if cache.get(key) is None]:
                covered = cover_invalid(case.restored, case.given_target, case.valid)
                references = case.references[: self._most_references]
                cases.append((replace(case, restored=covered, references=references), names))
        self._faces.analyse(cases)

    def measure_quality(
        self,
        images: Iterable[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]],
        cache: EvaluationCache,
        say: Callable[[str], None],
    ) -> None:
        """Computes the metrics of WEIGHTS (no_reference.py) in batches, and keeps the values in the cache.

        `images` has the restored image, the target and the valid pixels of each image, as in `Measure`. Each image is
        prepared once for all of these metrics. If the memory is too small, the batches are halved, and `say` gets a
        sentence. Because of rounding, the value of an image can depend on the size of its batch.
        """
        names = [name for name in self._metrics if name in WEIGHTS and name not in self.missing]
        # hash of (image, target) -> the image, and its missing metrics
        waiting: dict[str, tuple[np.ndarray, dict[str, str]]] = {}
        for restored, target, valid in images if names and cache.is_usable else ():
            pair = self._hash_pair(restored, target, valid)
            keys = {name: self._make_key(name, pair) for name in names if len(restored) >= METRICS[name].min_side}
            if lacking := {name: key for name, key in keys.items() if cache.get(key) is None}:
                waiting[pair] = cover_invalid(restored, target, valid), lacking
        start, every = 0, list(waiting.values())
        while start < len(every):
            batch = every[start : start + self._batch_size]
            try:
                values = self._score_batch(batch)
            except Exception as error:  # a network can raise many kinds of errors
                if not is_out_of_memory(error) or len(batch) == 1:
                    raise
                self._batch_size = len(batch) // 2
                say(
                    f"The memory was too small to measure {len(batch)} images at once. Now "
                    f"{format_count(self._batch_size, 'image is', 'images are')} measured at once."
                )
                continue
            for key, value in values.items():
                cache.put(key, struct.pack("<d", value))
            start += len(batch)

    def _score_batch(self, batch: Sequence[tuple[np.ndarray, dict[str, str]]]) -> dict[str, float]:
        """Returns key -> value for the metrics that the images of a batch lack."""
        tensor, values = to_tensors(np.stack([image for image, _ in batch])), dict[str, float]()
        for name in dict.fromkeys(name for _, lacking in batch for name in lacking):
            rows = [row for row, (_, lacking) in enumerate(batch) if name in lacking]
            scores = self._load_score(name)(tensor[rows])
            values |= {batch[row][1][name]: score for row, score in zip(rows, scores, strict=True)}
        return values

    def _hash_pair(self, restored: np.ndarray, target: np.ndarray | None, valid: np.ndarray | None) -> str:
        return hash_inputs(*map(self._hashes.find, (restored, target, valid)))

    def _make_keys(self, case: MeasuredCase, only: Collection[str] | None) -> dict[str, str]:
        """Returns the keys of the values of an image, by metric. `only` is as in `Measure`."""
        find = self._hashes.find
        names = [name for name in self._metrics if name not in self.missing and METRICS[name].scope != "set"]
        pair, of_lq = self._hash_pair(case.restored, case.given_target, case.valid), find(case.given_lq)
        of_references = hash_inputs(*map(find, case.references[: self._most_references]))
        of_wrong = hash_inputs(*map(find, case.wrong))
        has_target, has_lq = case.given_target is not None, case.given_lq is not None
        return {
            name: self._make_key(name, pair, of_references, of_wrong, of_lq)
            for name in select_names(names, bool(case.wrong), only, has_target, has_lq)
        }

    def _make_key(self, name: str, pair: str, references: str = "", wrong: str = "", lq: str | None = None) -> str:
        return hash_inputs(
            "value",
            self._metrics[name],
            pair,
            references if reads_references(name) else None,
            wrong if METRICS[name].scope == "wrong" else None,
            lq if reads_lq(name) else None,
        )

    def compute_set_metric(
        self,
        name: str,
        images: Iterable[np.ndarray],
        compared: Iterable[str | np.ndarray],
        cache: EvaluationCache,
        compute: Callable[[], float],
    ) -> float:
        """Returns the value of a metric of the whole set `images`. `compared` has all other inputs on which the value
        depends.

        The value comes from the cache, or from `compute` if it is not in the cache.
        """
        key = hash_inputs("set", self._metrics[name], hash_inputs(*images), hash_inputs(*compared))
        entry = cache.get(key)
        value = compute() if entry is None else struct.unpack("<d", entry)[0]
        if entry is None:
            cache.put(key, struct.pack("<d", value))
        return float(value)
