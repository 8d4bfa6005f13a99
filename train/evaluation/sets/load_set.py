"""Loads the set that is measured: reads it, names it, chooses its metrics, and leaves out what a run was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizers
from train.benchmark.frozen_benchmark import hash_picture, is_benchmark, load_benchmark
from train.benchmark.imported.imported_benchmark import find_imported
from train.benchmark.short_name import name_images
from train.benchmark.training_overlap import TrainingOverlap
from train.evaluation.options import DEFAULT_METRICS, WITHOUT_TARGET_METRICS, EvaluationOptions
from train.evaluation.sets.cases import Case, FrozenSet, read_frozen_set
from train.evaluation.sets.embedder import Embed
from train.evaluation.sets.imported_set import read_imported_set
from train.metrics.measure import reads_references


def read_set(
    dataset: Path,
    lq_set: str | None,
    options: EvaluationOptions,
    size: int | None,
    embed: Embed | None,
    with_poor: bool = False,
    most_references: int | None = None,
    keep: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> FrozenSet:
    """Reads a frozen set or an imported set. read_frozen_set and read_imported_set explain the arguments."""
    references = options.references
    if (imported := find_imported(dataset, lq_set)) is not None:
        return read_imported_set(*imported, references, most_references, embed, keep)
    return read_frozen_set(dataset, size, lq_set, references, options.seed, with_poor, most_references, keep)


def choose_metrics(frozen_set: FrozenSet, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the metrics to measure on a set. If the set has no targets, WITHOUT_TARGET_METRICS replaces
    DEFAULT_METRICS.
    """
    if frozen_set.has_targets or metrics != DEFAULT_METRICS:
        return metrics
    has_references = frozen_set.most_references > 0
    return tuple(name for name in WITHOUT_TARGET_METRICS if has_references or not reads_references(name))


def name_set(cases: Sequence[Case], references: int, release: Callable[[], None] = lambda: None) -> tuple[str, str]:
    """Returns the short name of a set, and the short name of the set with the references that metrics read.

    `release` is called after every 256 pictures, and can remove pictures from the memory.
    """
    hashes: dict[int, str] = {}  # references are shared by cases, so each array is hashed once

    def hash_once(image: np.ndarray | None) -> str:
        if image is None:
            return "-"
        if id(image) not in hashes:
            hashes[id(image)] = hash_picture(image)
            if len(hashes) % 256 == 0:
                release()
        return hashes[id(image)]

    own = [(case.face_id, hash_once(case.lq), hash_once(case.target)) for case in cases]
    used = [(*case.references[:references], *case.wrong[:references]) for case in cases]
    return name_images(own), name_images((*one, *map(hash_once, refs)) for one, refs in zip(own, used, strict=True))


def leave_out_seen(frozen_set: FrozenSet, run: Path, overlap: TrainingOverlap, is_allowed: bool) -> FrozenSet:
    """Returns the set without the cases that a run was trained on.

    Raises BadInput if the cases must not be left out (`is_allowed` is False), or if no case would be left.
    """
    if not is_allowed:
        raise BadInput(
            f"{run} was trained on {overlap.describe_seen()}. Give --leave-out-seen to measure only the other "
            "images, or train without these people."
        )
    seen = set(overlap.seen_targets)
    kept = tuple(case for case in frozen_set.cases if case.face_id not in seen)
    if not kept:
        raise BadInput(
            f"{run} was trained on {overlap.describe_seen()}. No image is left to measure: give another set."
        )
    return replace(frozen_set, cases=kept, without_case=(*frozen_set.without_case, *overlap.seen_targets))


def read_dataset_recognizer(dataset: Path) -> tuple[str, str]:
    """Returns the --faces value and the sha256 of the recognizer of a dataset or a benchmark."""
    if is_benchmark(dataset):
        recognizer = load_benchmark(dataset).card["recognizer"]
        return "auto", str(recognizer["sha256"])
    with Ledger.open(dataset) as ledger:
        recognizers = read_recognizers(ledger)
    if len(recognizers) != 1:
        raise BadInput(
            f"The ledger of {dataset} lists {len(recognizers)} recognizers instead of one: give a judge with --judge."
        )
    return recognizers[0].spec, recognizers[0].sha256
