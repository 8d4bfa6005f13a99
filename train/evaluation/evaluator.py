"""Defines the Evaluator, which loads a frozen set and the metrics once and measures any number of runs and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizers
from manifests.pictures.untrusted_images import open_reader
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count
from train.benchmark.frozen_benchmark import hash_picture, is_benchmark, load_benchmark
from train.benchmark.imported.imported_benchmark import find_imported
from train.benchmark.short_name import name_images, name_result_file
from train.benchmark.training_overlap import TrainingOverlap, find_training_overlap
from train.evaluation.aggregate import Average, Row, average_differences, average_systems, describe_interval
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.cached_measure import CachedMeasure
from train.evaluation.cache.cached_restorations import make_cached_restorer
from train.evaluation.cache.keys import hash_environment, hash_inputs, hash_restorer
from train.evaluation.cases import Case, FrozenSet, read_frozen_set
from train.evaluation.imported_set import count_set_problems, read_imported_set, restore_at_size
from train.evaluation.results import describe_metric
from train.evaluation.rows import (
    OnImage,
    find_unusable_files,
    match_files,
    measure_file,
    measure_input,
    measure_systems,
    select_image_metrics,
)
from train.evaluation.slices.average_slices import average_slices
from train.evaluation.slices.columns import check_columns, read_columns
from train.evaluation.systems import System
from train.metrics.fid import fid
from train.metrics.measure import check_names, reads_references, reads_target
from train.metrics.registry import METRICS
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.config import check_steps
from train.models.restorer import Restorer
from train.restore.batches.face_batches import FaceBatches
from train.restore.output_paths import list_photos
from train.restore.restorers.face_restorer import load_restorer_faces
from train.restore.restorers.load_restorer import load_restorer, move_to_device, speed_up_on_cpu, wrap_restorer

# `evaluate` computes these metrics if the user does not give --metrics. LPIPS and DISTS are left out if their weights
# are missing.
DEFAULT_METRICS = (
    "psnr",
    "ssim",
    "lpips",
    "dists",
    "id_target",
    "same_person",
    "id_references",
    "face_restored",
    "copy_ratio",
)


# `evaluate` computes these metrics for a set without targets, if the user does not give --metrics. The identity to the
# references (IPS) is beside the identity to the input and the agreement with the input, because copying raises IPS.
WITHOUT_TARGET_METRICS = (
    "niqe",
    "musiq",
    "maniqa",
    "clipiqa",
    "id_references",
    "id_input",
    "input_agreement",
    "face_restored",
)
NO_TARGETS = "The set has no targets."

CASES = 32  # The number of cases that are restored before they are measured (ours).


@dataclass(frozen=True)
class EvaluationOptions:
    """Holds the options of an evaluation: the metrics, the judge and the number of references."""

    references: int = 4  # The largest number of references of an image.
    counts: tuple[int, ...] = ()  # Additional numbers of references to measure, each between 0 and `references`.
    metrics: tuple[str, ...] = DEFAULT_METRICS
    judge: str | None = None  # A --faces value. None means the dataset's own recognizer.
    faces: str | None = None  # A --faces value for the restorer's recognizer, if its files were moved.
    base_model: str | None = None  # The folder of the diffusion model, if it was moved.
    steps: int = 1  # The number of steps in which a face is restored.
    weights: Path | None = None  # The folder of the metrics' networks.
    fid_folder: Path | None = None  # The folder of images for the metric fid_folder.
    seed: int = 0  # The seed for the draws of the references and for the bootstrap.
    # True: images of people that a run was trained on are not measured. False: such a run is refused.
    leave_out_seen: bool = False
    # True: only the images that all folders of restored images have are measured. False: such folders are refused.
    partial: bool = False
    slices: tuple[str, ...] = ()  # The columns by which the results are divided into slices.


@dataclass
class PageImages:
    """Collects the images of an evaluation for its HTML page."""

    cases: tuple[Case, ...] = ()
    rows: Sequence[Row] = ()
    restored: dict[tuple[str, str], np.ndarray] = field(
        default_factory=dict
    )  # the keys are the face id and the key of the system

    def keep(self, row: Row, image: np.ndarray) -> None:
        """Keeps the image of a row."""
        self.restored[row["face_id"], row["key"]] = image


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
        (train/evaluation/cases.py). The values of a run are kept in the folder of the run, and the values of a folder
        are kept in `out`, so that a second measurement of the same images takes seconds. `say` gets a sentence if
        values cannot be kept. Raises BadInput if an option is wrong.
        """
        if options.references < 1:
            raise BadInput(
                f"--max-references {options.references} is too small: give 1 or more. The result without references is "
                "always measured."
            )
        check_names(options.metrics)
        check_columns(options.slices)
        check_steps(options.steps)
        self.dataset, self.lq_set, self.options, self.on_image = Path(dataset), lq_set, options, on_image
        self.most_references, self.with_poor = most_references, with_poor
        self.out, self.say = out, say
        self.caches: dict[Path | None, EvaluationCache] = {}  # the folder of a run, or `out` -> its cache
        self.frozen_set: FrozenSet | None = None
        # The short name of the set, and the short name of the set with its references (train/benchmark/short_name.py).
        self.names: tuple[str, str] = "", ""
        self.judge: FaceModels | None = None
        self.measure: CachedMeasure | None = None
        self.dataset_recognizer = ""  # sha256
        self.missing_metrics: dict[str, str] = {}  # metric -> the reason why the metric cannot be measured
        self.overlaps: dict[Path, TrainingOverlap] = {}  # run -> what its training and the frozen set have in common
        self.targets: list[str] = []  # the face ids of all cases of the set, also of cases that are left out
        self.models: dict[Path, Restorer] = {}
        self.recognizers: dict[Path, FaceModels] = {}
        self.not_in_every_folder = 0  # number of cases that are left out, because a folder lacks them
        self.matches: dict[Path, tuple[dict[str, Path], list[str]]] = {}  # folder -> the result of `match_files`
        self.images_by_key: dict[str, list[np.ndarray]] = {}  # system -> images

    @property
    def cases(self) -> tuple[Case, ...]:
        """Returns the cases that are measured."""
        return () if self.frozen_set is None else self.frozen_set.cases

    @property
    def image_metrics(self) -> list[str]:
        """Returns the metrics that have a value for each image and can be measured on this machine."""
        return [name for name in select_image_metrics(self.options.metrics) if name not in self.missing_metrics]

    def name_result_file(self, stem: str) -> str:
        """Returns the name of a result file without its suffix. A run or a folder must be loaded before."""
        assert self.frozen_set is not None
        return name_result_file(stem, self.frozen_set.name, self.names[0], self.options.judge, self.options.steps)

    def load_run(self, run: Path) -> None:
        """Loads a run's newest checkpoint, and checks that the run can be measured on the set.

        If the run was trained on people of the set, their cases are left out, or BadInput is raised if
        `options.leave_out_seen` is False. Raises BadInput also if the run does not fit the set.
        """
        checkpoint = find_newest_checkpoint(run)
        model = speed_up_on_cpu(move_to_device(load_restorer(checkpoint, self.options.base_model, self.options.steps)))
        recognizer = load_restorer_faces(model.facts, self.options.faces)
        frozen_set = self._prepare(model, recognizer)
        self.targets = self.targets or [case.face_id for case in frozen_set.cases]
        overlap = self._find_overlap(checkpoint.parent, recognizer)
        if overlap.seen:
            self._leave_out_seen(run, overlap)
        self.overlaps[run] = overlap
        self.models[run], self.recognizers[run] = model, recognizer

    def _find_overlap(self, checkpoint_folder: Path, recognizer: FaceModels) -> TrainingOverlap:
        assert self.frozen_set is not None
        if self.frozen_set.is_imported:
            return TrainingOverlap(False, unchecked=["Likeness does not compare the faces of an imported set."])
        return find_training_overlap(
            self.dataset, self.lq_set, checkpoint_folder, self.targets, recognizer.strangers_near_zero
        )

    def _leave_out_seen(self, run: Path, overlap: TrainingOverlap) -> None:
        """Leaves out the cases that a run was trained on. Raises BadInput if the cases must not be left out, or if no
        case would be left."""
        assert self.frozen_set is not None
        if not self.options.leave_out_seen:
            raise BadInput(
                f"{run} was trained on {overlap.describe_seen()}. Give --leave-out-seen to measure only the other "
                "images, or train without these people."
            )
        seen = set(overlap.seen_targets)
        kept = tuple(case for case in self.frozen_set.cases if case.face_id not in seen)
        if not kept:
            raise BadInput(
                f"{run} was trained on {overlap.describe_seen()}. No image is left to measure: give another set."
            )
        without_case = (*self.frozen_set.without_case, *overlap.seen_targets)
        self.frozen_set = replace(self.frozen_set, cases=kept, without_case=without_case)

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
        lacking: dict[str, str] = {}  # face id -> the first reason
        with open_reader(limited=True) as read:
            for folder, (files, _) in self.matches.items():
                reasons = find_unusable_files(files, self.frozen_set.cases, read)
                if reasons and not self.options.partial:
                    total = len(self.frozen_set.cases)
                    raise BadInput(
                        f"{folder} has {total - len(reasons)} of {format_count(total, 'image')} of the set: "
                        f"{next(iter(reasons.values()))}. Complete the folder, or give --partial to measure only the "
                        "images that all folders have."
                    )
                lacking |= reasons
        kept = tuple(case for case in self.frozen_set.cases if case.face_id not in lacking)
        if not kept:
            raise BadInput("No image is in all folders of --restored. Give folders that have common images.")
        self.frozen_set = replace(self.frozen_set, cases=kept)
        self.not_in_every_folder = len(lacking)

    def measure_run(self, run: Path, systems: Sequence[System], progress: Progress, label: str = "") -> list[Row]:
        """Returns the rows of a run's newest checkpoint.

        `label` is put in front of the key of each restoration, but not in front of the key of the LQ image.

        Raises the same errors as `load_run`.
        """
        if run not in self.models:
            self.load_run(run)
        model, recognizer, frozen_set = self.models[run], self.recognizers[run], self.frozen_set
        assert frozen_set is not None
        cache = self._open_cache(run, hash_restorer(model))
        restorer = wrap_restorer(model, "fp32", shares_cores=False)
        batches = FaceBatches(restorer, restorer.find_batch_size())
        restore_cases = make_cached_restorer(model, recognizer, cache, batches)
        if model.config.size != frozen_set.cases[0].size:  # only images of an imported set can have another size
            restore_cases = restore_at_size(restore_cases, model.config.size)
        measure, rows = self._load_measure(cache).read_from(cache), list[Row]()

        def keep(row: Row, image: np.ndarray) -> None:
            self._keep_image(_label_row(row, label), image)

        for start in range(0, len(frozen_set.cases), CASES):
            cases = frozen_set.cases[start : start + CASES]
            restored = restore_cases(cases, systems)
            for done, case in enumerate(cases, start + 1):
                for row in measure_systems(case, restored, measure, systems, self.image_metrics, keep):
                    rows.append(_label_row(row, label))
                cache.write()
                progress("evaluate", done, len(frozen_set.cases))
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
        with open_reader(limited=True) as read:
            for done, case in enumerate(frozen_set.cases, 1):
                if with_input:
                    rows.append(measure_input(case, measure, metrics, self._keep_image))
                file = files.get(case.face_id)
                rows.append(measure_file(case, file, name, name, measure, metrics, read, self._keep_image))
                cache.write()
                progress("evaluate", done, len(frozen_set.cases))
        return rows, unmatched

    def build_result(self, rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
        """Returns the averages of `rows`, the differences of `pairs`, and the settings of the measurement."""
        assert self.frozen_set is not None and self.judge is not None
        cases, metrics = self.frozen_set.cases, self.image_metrics
        people = [case.identity_id for case in cases]
        averages, missing = average_systems(rows, metrics, self.options.seed), dict(self.missing_metrics)
        problems = count_set_problems(self.frozen_set, self.judge, next(iter(self.caches.values())))
        for name in self.options.metrics:
            if METRICS[name].scope == "set" and name not in missing:
                self._add_set_metric(name, averages, missing)
        while self.caches:
            self.caches.popitem()[1].close()
        for average in averages:  # a metric that cannot be measured has the value None
            average.update(dict.fromkeys(missing))
        measured_first = sorted(self.options.metrics, key=lambda name: name in missing)
        return {
            "dataset": str(self.dataset.resolve()),
            "lq_set": self.frozen_set.name,
            "set_argument": self.lq_set,
            "seed": self.options.seed,
            "benchmark": self.names[0],  # depends on the LQ images and the targets
            "benchmark_with_references": self.names[1],
            "images": len(cases),
            "images_in_set": self.frozen_set.images,
            "people": len(set(people)),
            # why images of the set were not measured -> number of images
            "images_left_out": {
                "seen_in_training": len(self._find_seen_targets()),
                "not_in_every_folder": self.not_in_every_folder,
            },
            "people_known": self.frozen_set.people_known,
            "has_targets": self.frozen_set.has_targets,
            "with_references": sum(bool(case.references) for case in cases),
            # None for a set that Likeness made; otherwise what does not fit in the set -> number of files
            "set_problems": problems,
            # the titles of the usual metrics that need a target, if the set has no targets
            "needs_targets": (
                []
                if self.frozen_set.has_targets
                else [METRICS[name].title for name in DEFAULT_METRICS if reads_target(name)]
            ),
            "references": self.options.references,
            "size": cases[0].size,
            "judge": {
                "spec": self.judge.spec,
                "sha256": self.judge.recognizer_sha256(),
                "is_the_datasets_own": self.judge.recognizer_sha256() == self.dataset_recognizer,
            },
            "interval": describe_interval(people, self.frozen_set.people_known),
            "without_wrong_references": sum(not case.wrong for case in cases),
            # key of a system with references -> number of images for which some references were left out
            "left_out": {
                key: sum(row["left_out"] > 0 for row in rows if row["key"] == key)
                for key in dict.fromkeys(row["key"] for row in rows if row["references"])
            },
            "metrics": {name: describe_metric(name) for name in measured_first},
            "not_measured": missing,
            "unmeasured": [
                {"key": row["key"], "face_id": row["face_id"], "reason": row["reason"]}
                for row in rows
                if row["reason"] is not None
            ],
            "rows": averages,
            "differences": average_differences(rows, pairs, metrics, self.options.seed),
            **self._average_slices(rows, metrics),
        }

    def _find_seen_targets(self) -> set[str]:
        """Returns the face ids of the cases that a run was trained on."""
        return {face for overlap in self.overlaps.values() for face in overlap.seen_targets}

    def _average_slices(self, rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
        """Returns the averages of each slice, and the reasons for columns without slices, or {} if no slice is asked
        for."""
        if not self.options.slices:
            return {}
        assert self.frozen_set is not None
        options, cases = self.options, self.cases
        name = self.frozen_set.name
        columns = read_columns(options.slices, cases, self.dataset, self.lq_set, name, options.references, options.seed)
        sliced, reasons = average_slices(rows, [case.face_id for case in cases], columns, metrics, options.seed)
        return {"slices": sliced, "not_sliced": reasons}

    def describe_run(self, run: Path) -> dict[str, Any]:
        """Returns the part of a result that describes one run."""
        facts = self.models[run].facts
        return {
            "checkpoint": find_newest_checkpoint(run).name,
            "recipe": facts.get("recipe"),
            "images_seen": facts.get("images"),
            "steps": self.options.steps,
            "training_overlap": self.overlaps[run].as_json(),
        }

    def _prepare(self, model: Restorer, recognizer: FaceModels) -> FrozenSet:
        """Loads the frozen set and the metrics for the first run, and checks that each run fits the set and the
        metrics."""
        size = model.config.size
        if self.frozen_set is None:
            self.frozen_set = self.read_set(size, recognizer)
            self.names = name_set(self.frozen_set.cases, self.options.references)
            own = self.frozen_set.is_imported
            self.dataset_recognizer = recognizer.recognizer_sha256() if own else _read_recognizer(self.dataset)[1]
            self.judge = load_faces(self.options.judge) if self.options.judge is not None else recognizer
        elif self.frozen_set.cases[0].size != size and not self.frozen_set.is_imported:
            raise BadInput(
                f"The set has images of {self.frozen_set.cases[0].size} px, but one of the restorers works at {size} "
                "px: compare restorers of the same size."
            )
        if model.facts.get("recognizer") is not None and recognizer.recognizer_sha256() != self.dataset_recognizer:
            raise BadInput(
                f"The restorer uses embeddings of {recognizer.spec}, but {self.dataset} was curated with a different "
                f"recognizer: curate the photos with --faces {recognizer.spec}."
            )
        return self.frozen_set

    def _prepare_without_run(self) -> None:
        """Loads the frozen set and the metrics without a run: the set can have any image size, and the dataset names
        the recognizer. An imported set names no recognizer.
        """
        self.frozen_set = self.read_set(None, None)
        self.names = name_set(self.frozen_set.cases, self.options.references)
        spec, self.dataset_recognizer = ("auto", "") if self.frozen_set.is_imported else _read_recognizer(self.dataset)
        self.judge = load_faces(self.options.judge or self.options.faces or spec)

    def read_set(self, size: int | None, recognizer: FaceModels | None) -> FrozenSet:
        """Reads the frozen set or the imported set. If it has no targets, other metrics are the usual ones."""
        references, most = self.options.references, self.most_references
        if (imported := find_imported(self.dataset, self.lq_set)) is not None:
            frozen_set = read_imported_set(*imported, references, most, recognizer)
        else:
            seed, with_poor = self.options.seed, self.with_poor
            frozen_set = read_frozen_set(self.dataset, size, self.lq_set, references, seed, with_poor, most)
        if not frozen_set.has_targets and self.options.metrics == DEFAULT_METRICS:
            has_references = frozen_set.most_references > 0
            usual = [name for name in WITHOUT_TARGET_METRICS if has_references or not reads_references(name)]
            self.options = replace(self.options, metrics=tuple(usual))
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
            measure = CachedMeasure(names, self.judge, options.weights, options.references, cache)
            absent = {name: NO_TARGETS for name in options.metrics if name not in names}
            self.measure, self.missing_metrics = measure, measure.missing | absent
            if "fid_folder" in options.metrics and options.fid_folder is None:
                reason = "fid_folder needs a folder of images: give a folder with --fid-folder."
                self.missing_metrics["fid_folder"] = reason
        return self.measure

    def _keep_image(self, row: Row, image: np.ndarray) -> None:
        if self.on_image is not None:
            self.on_image(row, image)
        if any(METRICS[name].scope == "set" and name not in self.missing_metrics for name in self.options.metrics):
            self.images_by_key.setdefault(row["key"], []).append(image)

    def _add_set_metric(self, name: str, averages: list[Average], missing: dict[str, str]) -> None:
        """Adds a metric that has one value for a whole set, without an interval."""
        assert self.frozen_set is not None and self.measure is not None
        cache = next(iter(self.caches.values()))
        others = [case.target for case in self.frozen_set.cases if case.target is not None]
        try:
            if name == "fid_folder":
                assert self.options.fid_folder is not None
                with open_reader(limited=True) as read:
                    others = [read(path) for path in list_photos(self.options.fid_folder)]
            for average in averages:
                if not (images := self.images_by_key.get(average["key"], [])):
                    average[name] = None
                    continue
                compute = partial(fid, images, others, self.options.weights)
                mean = self.measure.compute_set_metric(name, images, others, cache, compute)
                average[name] = {"mean": mean, "images": len(images)}
        except BadInput as error:
            missing[name] = str(error)


def name_set(cases: Sequence[Case], references: int) -> tuple[str, str]:
    """Returns the short name of a set, and the short name of the set with the references that metrics read."""
    hashes: dict[int, str] = {}  # references are shared by cases, so each array is hashed once

    def hash_once(image: np.ndarray | None) -> str:
        if image is None:
            return "-"
        if id(image) not in hashes:
            hashes[id(image)] = hash_picture(image)
        return hashes[id(image)]

    own = [(case.face_id, hash_once(case.lq), hash_once(case.target)) for case in cases]
    used = [(*case.references[:references], *case.wrong[:references]) for case in cases]
    return name_images(own), name_images((*one, *map(hash_once, refs)) for one, refs in zip(own, used, strict=True))


def _label_row(row: Row, label: str) -> Row:
    if not label or row["key"] == "lq":
        return row
    return row | {"key": f"{label}/{row['key']}", "system": f"{label}: {row['system']}"}


def _read_recognizer(dataset: Path) -> tuple[str, str]:
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
