"""Defines the Evaluator, which loads a frozen set and the metrics once and measures any number of runs and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from manifests.errors import BadInput
from manifests.pictures.untrusted_images import open_reader
from manifests.runtime.progress import Progress
from train.benchmark.short_name import name_result_file
from train.benchmark.training_overlap import TrainingOverlap
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.cached_embedder import make_cached_embedder
from train.evaluation.cache.cached_measure import CachedMeasure
from train.evaluation.cache.cached_overlap import find_overlap
from train.evaluation.cache.cached_restorations import make_cached_restorer
from train.evaluation.cache.keys import hash_environment, hash_inputs
from train.evaluation.cache.stored_restorer import StoredRestorer, check_restorer, make_batches, open_restorer
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.aggregate import average_differences, average_systems
from train.evaluation.results.describe_set import NO_TARGETS, describe_rows, describe_set
from train.evaluation.results.ntire_score import add_parts, describe_gate
from train.evaluation.results.set_metrics import MeasuredSet, add_set_metrics, explain_missing_options, read_set_options
from train.evaluation.results.set_problems import count_set_problems
from train.evaluation.results.write_result import describe_metric
from train.evaluation.sets.cases import Case, FrozenSet
from train.evaluation.sets.load_set import choose_metrics, leave_out_seen, name_set, read_dataset_recognizer, read_set
from train.evaluation.sets.picture_file import PictureFile
from train.evaluation.slices.average_slices import describe_slices
from train.evaluation.slices.columns import check_columns
from train.evaluation.systems.face_models import check_recognizer, choose_judge_device, list_failures
from train.evaluation.systems.measured_cases import make_measured_case, make_measured_input
from train.evaluation.systems.restore_case import restore_at_size
from train.evaluation.systems.restored_folders import keep_common_cases, match_files
from train.evaluation.systems.row import Row, label_row
from train.evaluation.systems.rows import OnImage, measure_file, measure_input, measure_systems, select_image_metrics
from train.evaluation.systems.system import System
from train.metrics.measure import check_border, check_names, reads_target
from train.metrics.readers import MeasuredCase
from train.metrics.registry import METRICS
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.config import check_steps
from train.restore.batches.face_batches import FaceBatches
from train.restore.restorers.face_restorer import load_restorer_faces

CASES = 32  # The number (ours) of cases that are restored before they are measured.


class Evaluator:
    """Measures runs, and folders of restored images, on one frozen set with one judge.

    The set is loaded together with the first run or folder.
    """

    def __init__(
        self,
        dataset: Path,
        lq_set: str | None,
        options: EvaluationOptions,
        on_image: OnImage | None = None,
        most_references: int | None = None,
        with_poor: bool = False,
        out: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepares an evaluation, but loads nothing yet.

        A system can use up to `most_references` references of an image. If `most_references` is None, a system can use
        up to `options.references`. Metrics that look at references always compare with the first `options.references`
        references, so that a system gets the same figures from `evaluate` and from `counterfactuals`. `on_image` is
        called with each image that is measured. If `with_poor` is true, each case also has its poor references
        (train/evaluation/sets/cases.py). The values of a run are kept in the folder of the run, and the values of a
        folder are kept in `out`, so that a second measurement of the same images takes seconds. `say` gets a sentence
        if values cannot be kept. Raises BadInput if an option is wrong.
        """
        if options.references < 1:
            raise BadInput(
                f"--max-references {options.references} is too small: give 1 or more. The result without references is "
                "always measured."
            )
        check_names(options.metrics)
        options = replace(options, metrics=add_parts(options.metrics))
        options, self.statistics = read_set_options(options)
        check_columns(options.slices)
        check_steps(options.steps)
        self.dataset, self.lq_set, self.options, self.on_image = Path(dataset), lq_set, options, on_image
        self.most_references, self.with_poor = most_references, with_poor
        self.out, self.say = out, say
        self.caches: dict[Path | None, EvaluationCache] = {}  # maps a folder to its cache; None: in memory
        self.frozen_set: FrozenSet | None = None
        # The short name of the set, and the short name of the set with its references (train/benchmark/short_name.py).
        self.names: tuple[str, str] = "", ""
        self.judge: FaceModels | None = None
        self.measure: CachedMeasure | None = None
        self.dataset_recognizer = ""  # sha256
        self.missing_metrics: dict[str, str] = {}  # metric -> the reason why the metric cannot be measured
        self.overlaps: dict[Path, TrainingOverlap] = {}  # run -> what its training and the frozen set have in common
        self.whole_set: FrozenSet | None = None  # the set with the cases that are left out
        self.restorers: dict[Path, StoredRestorer] = {}
        self.recognizers: dict[Path, FaceModels] = {}
        self.not_in_every_folder = 0  # number of cases that are left out, because a folder lacks them
        self.matches: dict[Path, tuple[dict[str, Path], list[str]]] = {}  # folder -> the result of `match_files`
        self.images_by_key: dict[str, list[np.ndarray]] = {}  # system -> images
        self.pictures = PictureFile()  # the pictures of the set, and the images that a later step needs
        self.read_images: dict[Path, np.ndarray] = {}  # file of a restored image -> its image

    @property
    def cases(self) -> tuple[Case, ...]:
        """Returns the cases that are measured."""
        return () if self.frozen_set is None else self.frozen_set.cases

    @property
    def image_metrics(self) -> list[str]:
        """Returns the metrics that have a value for each image and can be measured on this machine."""
        return [name for name in select_image_metrics(self.options.metrics) if name not in self.missing_metrics]

    def name_result_file(self, stem: str) -> str:
        """Returns the name of a result file without its suffix. Needs a loaded run or folder."""
        assert self.frozen_set is not None
        return name_result_file(stem, self.frozen_set.name, self.names[0], self.options.judge, self.options.steps)

    def load_run(self, run: Path) -> None:
        """Loads a run's newest checkpoint, and checks that the run can be measured on the set.

        If the run was trained on people of the set, their cases are left out, or BadInput is raised if
        `options.leave_out_seen` is False. Raises BadInput also if the run does not fit the set.
        """
        checkpoint = find_newest_checkpoint(run)
        restorer = open_restorer(checkpoint, self.options.base_model, self.options.steps)
        cache = self._open_cache(run, restorer.find_hash())
        check_restorer(restorer, cache)
        recognizer = load_restorer_faces(restorer.facts, self.options.faces, choose_judge_device())
        frozen_set = self._prepare(restorer, recognizer, cache)
        self.whole_set = self.whole_set or frozen_set
        overlap = find_overlap(self.whole_set, self.dataset, self.lq_set, checkpoint.parent, recognizer, cache)
        if overlap.seen:
            self.frozen_set = leave_out_seen(frozen_set, run, overlap, self.options.leave_out_seen)
        self.overlaps[run] = overlap
        self.restorers[run], self.recognizers[run] = restorer, recognizer

    def load_folder(self, folder: Path) -> None:
        """Finds the file of each image in a folder of restored images. Raises the errors of `match_files`."""
        if self.frozen_set is None:
            self._prepare_without_run()
        assert self.frozen_set is not None
        self.matches[folder] = match_files(folder, self.frozen_set.cases, self.frozen_set.without_case)

    def check_folders(self) -> None:
        """Reads every file of the loaded folders before anything is measured.

        With `options.partial`, the cases that a folder lacks are left out for all systems. Raises BadInput if a folder
        lacks an image and `options.partial` is False, if a file has the wrong size, or if no case would be left.
        """
        assert self.frozen_set is not None
        cases = self.frozen_set.cases
        files = {folder: own for folder, (own, _) in self.matches.items()}
        kept = keep_common_cases(files, cases, self.options.partial, self._keep_file)
        self.frozen_set = replace(self.frozen_set, cases=kept)
        self.not_in_every_folder = len(cases) - len(kept)

    def measure_run(self, run: Path, systems: Sequence[System], progress: Progress, label: str = "") -> list[Row]:
        """Measures a run's newest checkpoint, and returns its rows.

        `label` is put in front of the key of each restoration, but not in front of the key of the LQ image.

        Raises the same errors as `load_run`.
        """
        if run not in self.restorers:
            self.load_run(run)
        restorer, recognizer, frozen_set = self.restorers[run], self.recognizers[run], self.frozen_set
        assert frozen_set is not None
        cache, loaded = self._open_cache(run, restorer.find_hash()), list[FaceBatches]()

        def load_batches() -> FaceBatches:
            if not loaded:
                loaded.append(make_batches(restorer))
            return loaded[0]

        restore_cases = make_cached_restorer(restorer, recognizer, cache, load_batches)
        if restorer.config.size != frozen_set.cases[0].size:  # only in an imported set
            restore_cases = restore_at_size(restore_cases, restorer.config.size)
        measure, rows = self._load_measure(cache).read_from(cache), list[Row]()

        def keep(row: Row, image: np.ndarray) -> None:
            self._keep_image(label_row(row, label), image)

        for start in range(0, len(frozen_set.cases), CASES):
            cases = frozen_set.cases[start : start + CASES]
            restored = restore_cases(cases, systems)
            by_face = {case.face_id: case for case in cases}
            images = [
                make_measured_case(by_face[face], one.image)
                for (face, _), one in restored.items()
                if one.image is not None
            ]
            images += [make_measured_input(case) for case in cases if not all(system.restores for system in systems)]
            self._prepare_values(images, cache)
            for done, case in enumerate(cases, start + 1):
                for row in measure_systems(case, restored, measure, systems, self.image_metrics, keep):
                    rows.append(label_row(row, label))
                cache.write()
                progress("evaluate", done, len(frozen_set.cases))
            self.pictures.release()
        for batches in loaded:
            batches.describe_halving(self.say)
        return rows

    def measure_folder(
        self, folder: Path, name: str, progress: Progress, with_input: bool
    ) -> tuple[list[Row], list[str]]:
        """Returns the rows of a folder of restored images, and the names of the files that match no image.

        `name` is the name of the system in all tables. If `with_input` is true, the rows of the LQ images are added.
        """
        if folder not in self.matches:
            self.load_folder(folder)
        frozen_set, (files, unmatched) = self.frozen_set, self.matches[folder]
        assert frozen_set is not None
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        cache = self.caches.get(self.out) or self._open_cache(self.out)  # `out` can be the folder of a run
        measure = self._load_measure(cache).read_from(cache)
        rows, metrics = [], self.image_metrics
        with open_reader(limited=True) as read_file:

            def read(path: Path) -> np.ndarray:
                return self.read_images[path] if path in self.read_images else read_file(path)

            for done, case in enumerate(frozen_set.cases, 1):
                if (done - 1) % CASES == 0:
                    cases = frozen_set.cases[done - 1 : done - 1 + CASES]
                    known = {one.face_id for one in cases if files.get(one.face_id) in self.read_images}
                    images = [
                        make_measured_case(one, self.read_images[files[one.face_id]])
                        for one in cases
                        if one.face_id in known
                    ]
                    images += [make_measured_input(one) for one in cases if with_input]
                    self._prepare_values(images, cache)
                if with_input:
                    rows.append(measure_input(case, measure, metrics, self._keep_image))
                file = files.get(case.face_id)
                rows.append(measure_file(case, file, name, name, measure, metrics, read, self._keep_image))
                cache.write()
                progress("evaluate", done, len(frozen_set.cases))
                if done % CASES == 0:
                    self.pictures.release()
        return rows, unmatched

    def build_result(self, rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
        """Returns the averages of `rows`, the differences of `pairs`, and the settings of the measurement."""
        assert self.frozen_set is not None and self.judge is not None and self.measure is not None
        metrics = self.image_metrics
        averages, missing = average_systems(rows, metrics, self.options.seed), dict(self.missing_metrics)
        cache = next(iter(self.caches.values()))
        problems = count_set_problems(self.frozen_set, self.judge, cache)
        of_sets = [name for name in self.options.metrics if METRICS[name].scope == "set" and name not in missing]
        inputs = (self.images_by_key, self.frozen_set.cases, self.options, self.statistics, self.measure, cache)
        missing |= add_set_metrics(of_sets, averages, MeasuredSet(*inputs, self.pictures.keep))
        while self.caches:
            self.caches.popitem()[1].close()
        for notice in dict.fromkeys(list_failures([self.judge, *self.recognizers.values()])):
            self.say(notice)
        for average in averages:  # a metric that cannot be measured has the value None
            average.update(dict.fromkeys(missing))
        measured_first = sorted(self.options.metrics, key=lambda name: name in missing)
        return {
            "dataset": str(self.dataset.resolve()),
            "set_argument": self.lq_set,
            "benchmark": self.names[0],  # depends on the LQ images and the targets
            "benchmark_with_references": self.names[1],
            **describe_set(self.frozen_set, self.options, missing),
            # why images of the set were not measured -> number of images
            "images_left_out": {
                "seen_in_training": len({face for one in self.overlaps.values() for face in one.seen_targets}),
                "not_in_every_folder": self.not_in_every_folder,
            },
            # problem of an imported set -> number of files with this problem; None for a set that Likeness made
            "set_problems": problems,
            "judge": {
                "spec": self.judge.spec,
                "sha256": self.judge.recognizer_sha256(),
                "device": self.judge.device,
                "is_the_datasets_own": self.judge.recognizer_sha256() == self.dataset_recognizer,
            },
            "metrics": {name: describe_metric(name, self.options, self.judge) for name in measured_first},
            "not_measured": missing,
            **describe_rows(rows),
            "rows": averages,
            "differences": average_differences(rows, pairs, metrics, self.options.seed),
            **describe_gate(rows, self.options.metrics, missing, self.dataset, self.lq_set),
            **describe_slices(rows, self.frozen_set, self.dataset, self.lq_set, self.options, metrics),
        }

    def describe_run(self, run: Path) -> dict[str, Any]:
        """Returns the part of a result that describes one run."""
        facts = self.restorers[run].facts
        return {
            "checkpoint": find_newest_checkpoint(run).name,
            "recipe": facts.get("recipe"),
            "images_seen": facts.get("images"),
            "steps": self.options.steps,
            "training_overlap": self.overlaps[run].as_json(),
        }

    def _prepare(self, restorer: StoredRestorer, recognizer: FaceModels, cache: EvaluationCache) -> FrozenSet:
        """Loads the frozen set and the metrics for the first run, and checks that each run fits the set and the
        metrics."""
        size = restorer.config.size
        if self.frozen_set is None:
            self.frozen_set = self._read_set(size, recognizer, cache)
            if self.frozen_set.is_imported:
                self.dataset_recognizer = recognizer.recognizer_sha256()
            else:
                self.dataset_recognizer = read_dataset_recognizer(self.dataset)[1]
            self.judge = recognizer
            if self.options.judge is not None:
                self.judge = load_faces(self.options.judge, device=choose_judge_device())
        elif self.frozen_set.cases[0].size != size and not self.frozen_set.is_imported:
            raise BadInput(
                f"The set has images of {self.frozen_set.cases[0].size} px, but one of the restorers works at {size} "
                "px: compare restorers of the same size."
            )
        if restorer.facts.get("recognizer") is not None:
            known = "" if self.frozen_set.is_imported else str(self.dataset)
            check_recognizer(recognizer, self.dataset_recognizer, known)
        return self.frozen_set

    def _prepare_without_run(self) -> None:
        """Loads the frozen set and the metrics without a run: the set can have any image size, and the dataset names
        the recognizer. An imported set names no recognizer.
        """
        self.frozen_set = self._read_set(None, None, None)
        is_imported = self.frozen_set.is_imported
        spec, self.dataset_recognizer = ("auto", "") if is_imported else read_dataset_recognizer(self.dataset)
        spec = self.options.judge or self.options.faces or spec
        self.judge = load_faces(spec, device=choose_judge_device())

    def _read_set(self, size: int | None, recognizer: FaceModels | None, cache: EvaluationCache | None) -> FrozenSet:
        options = self.options
        embed = None if recognizer is None or cache is None else make_cached_embedder(recognizer, cache)
        frozen_set = read_set(
            self.dataset,
            self.lq_set,
            options,
            size,
            embed,
            self.with_poor,
            self.most_references,
            self.pictures.keep,
        )
        self.options = replace(options, metrics=choose_metrics(frozen_set, options.metrics))
        check_border(options.crop_border, frozen_set.cases[0].size, self.options.metrics)
        self.names = name_set(frozen_set.cases, options.references, self.pictures.release)
        return frozen_set

    def _open_cache(self, folder: Path | None, restorer: str = "") -> EvaluationCache:
        """Returns the cache in a folder, or a cache in memory. `restorer` is the hash of the run's restorer."""
        scope = hash_inputs(hash_environment(), restorer)
        if folder in self.caches and self.caches[folder].scope != scope:  # the restorer changed after the last call
            self.caches.pop(folder).close()
        if folder not in self.caches:
            self.caches[folder] = EvaluationCache(folder, scope, self.say)
        return self.caches[folder]

    def _load_measure(self, cache: EvaluationCache) -> CachedMeasure:
        """Returns the metrics. The first call finds out which metrics can be measured."""
        if self.measure is None:
            assert self.judge is not None and self.frozen_set is not None
            options, has_targets = self.options, self.frozen_set.has_targets
            names = [name for name in options.metrics if has_targets or not reads_target(name)]
            inputs = (names, self.judge, options.weights, options.references, cache, options.crop_border)
            measure = CachedMeasure(*inputs)
            absent = {name: NO_TARGETS for name in options.metrics if name not in names}
            self.measure, self.missing_metrics = measure, measure.missing | absent | explain_missing_options(options)
        return self.measure

    def _prepare_values(self, images: Sequence[MeasuredCase], cache: EvaluationCache) -> None:
        """Runs the judge and the metrics of `measure_quality` on many images at once."""
        measure = self._load_measure(cache)
        measure.analyse_faces(images, cache)
        measure.measure_quality(((one.restored, one.given_target, one.valid) for one in images), cache, self.say)

    def _keep_file(self, path: Path, image: np.ndarray) -> None:
        self.read_images[path] = self.pictures.keep(image)

    def _keep_image(self, row: Row, image: np.ndarray) -> None:
        if self.on_image is not None:
            self.on_image(row, image)
        if any(METRICS[name].scope == "set" and name not in self.missing_metrics for name in self.options.metrics):
            self.images_by_key.setdefault(row["key"], []).append(self.pictures.keep(image))
