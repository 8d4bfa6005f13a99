"""Find the leaks of a benchmark. curate/people/leaks/find_leaks.py explains the kinds of leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curate.people.leaks.dataset_faces import Rules
from curate.people.leaks.find_leaks import Leaks, find_leaks, make_pairs_array
from manifests.runtime.progress import Progress
from train.benchmark.frozen_benchmark import Benchmark, load_benchmark, map_pictures_to_faces
from train.benchmark.read_images import read_embeddings


def find_benchmark_leaks(
    folder: Path, photos: Path | None = None, limit: int = 20, progress: Progress = lambda *_: None
) -> Leaks:
    """Finds the leaks between the splits of a benchmark, and among the references of its targets.

    Embeddings come from the dataset `photos`, or from the benchmark if `photos` is None. Without embeddings, some
    checks are not possible, and the field `unchecked` lists the missing checks. Raises the same errors as
    `load_benchmark`. Raises BadInput also if the dataset and the benchmark have different recognizers.
    """
    benchmark = load_benchmark(folder)
    number_of = {line.face: i for i, line in enumerate(benchmark.faces)}
    embedded_faces, vectors = read_embeddings(benchmark, photos)
    rows = np.array([number_of[face] for face in embedded_faces], np.int64)
    rules = read_benchmark_rules(benchmark)
    references, policy = _list_benchmark_references(benchmark), benchmark.card["policy"]
    leaks = find_leaks(benchmark.faces, rows, vectors, references, policy, rules, limit, progress)
    if len(rows) < len(benchmark.faces):
        count = benchmark.card["leaks"]["cosine"]
        leaks.unchecked[-1] += f" When the benchmark was frozen, {count} leaks of kind cosine were counted."
    return leaks


def read_benchmark_rules(benchmark: Benchmark) -> Rules:
    """Returns the thresholds with which the photos of a benchmark were curated."""
    thresholds = dict(benchmark.card["thresholds"])
    return Rules(**thresholds.pop("near_duplicate"), **thresholds)


def _list_benchmark_references(benchmark: Benchmark) -> np.ndarray:
    """Returns a row (position of the target, position of the reference) for each reference and each wrong reference,
    int64 (k, 2). The positions are those in `benchmark.faces`.
    """
    number_of = {line.face: i for i, line in enumerate(benchmark.faces)}
    face_of = map_pictures_to_faces(benchmark)
    return make_pairs_array(
        (number_of[case.face], number_of[face_of[ref]])
        for case in benchmark.cases
        for ref in (*case.references, *case.wrong_references)
    )
