"""Restore a frozen set with references, without, and with wrong ones, and measure each: truth is known there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizers
from manifests.runtime.files import remove_temporary_files, write_atomically
from manifests.runtime.progress import Progress
from manifests.runtime.untrusted_images import open_reader
from train.benchmark.frozen_benchmark import is_benchmark, load_benchmark
from train.evaluation.aggregate import Row, average_differences, average_systems, describe_interval
from train.evaluation.cases import Case, FrozenSet, read_frozen_set
from train.evaluation.rows import (
    OnImage,
    match_files,
    measure_file,
    measure_input,
    measure_systems,
    select_image_metrics,
)
from train.evaluation.systems import System, list_differences, list_systems
from train.evaluation.training_overlap import check_not_trained_on
from train.metrics.fid import fid
from train.metrics.measure import Measure, build_measure, check_names
from train.metrics.registry import METRICS
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.restorer import Restorer
from train.models.steps import check_steps
from train.restore.load import load_restorer, load_restorer_faces, move_to_device
from train.restore.output_paths import list_photos
from train.run_folders import name_result_file

# what is measured where nothing else is asked for; LPIPS and DISTS where their weights are here
DEFAULT_METRICS = ("psnr", "ssim", "lpips", "dists", "id_target", "id_references", "face_restored", "copy_ratio")


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and by whom."""

    references: int = 4  # at most so many an image
    counts: tuple[int, ...] = ()  # also with so many, between none and all
    metrics: tuple[str, ...] = DEFAULT_METRICS
    judge: str | None = None  # a --faces spec; None: the dataset's own recognizer
    faces: str | None = None  # where the recognizer's files lie now
    base_model: str | None = None  # where the diffusion model lies now
    steps: int = 1  # that a face is restored in
    weights: Path | None = None  # the metrics' networks
    fid_folder: Path | None = None  # of metric fid_folder
    seed: int = 0  # draws the references and the bootstrap


@dataclass
class PagePictures:
    """What a page shows, filled while it is measured."""

    cases: tuple[Case, ...] = ()
    rows: Sequence[Row] = ()
    of: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # restored, by face and key

    def keep(self, row: Row, image: np.ndarray) -> None:
        """OnImage a row's picture."""
        self.of[row["face_id"], row["key"]] = image


def evaluate(
    run: Path,
    dataset: Path,
    lq_set: str | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = lambda *_: None,
    pictures: PagePictures | None = None,
) -> dict[str, Any]:
    """Measure the newest checkpoint of `run` on a frozen set of `dataset`; answers what RUN/evaluation.json then holds.

    Rows: the LQ input, restored without references, with up to `references` of them (train/evaluation/cases.py says
    which), with
    each number of `counts` between, and with as many of another person; and the paired differences between them.
    Identity is by the judge: the dataset's own recognizer, which a restorer with an identity loss has also learned
    through, or `judge`; `name_result_file` says what the files are then called. RUN/evaluation.parquet holds a row an
    image and a system. Raises BadInput, LedgerError or FaceModelError.
    """
    options = options or EvaluationOptions()
    found = Evaluation(dataset, lq_set, options, pictures.keep if pictures is not None else None)
    rows = found.measure_run(run, list_systems(options.references, options.counts), progress)
    result = found.build_result(rows, list_differences(options.references)) | found.describe_run(run)
    if pictures is not None:
        pictures.cases, pictures.rows = found.cases, rows
    write_result(run / name_result_file("evaluation", options.judge, options.steps), result, rows)
    return result


def compare(
    runs: Sequence[Path],
    folders: Sequence[Path],
    dataset: Path,
    out: Path,
    lq_set: str | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = lambda *_: None,
    pictures: PagePictures | None = None,
) -> dict[str, Any]:
    """Several runs, and folders that somebody else restored the set into, side by side in OUT/comparison.*.

    Every system is compared with the first run's restored images, or the first folder's, image by image. What a folder
    lacks is a row with a reason, what it has besides is in `extra`. Raises as `evaluate`; BadInput for two of one name.
    """
    options = options or EvaluationOptions()
    named = [path.resolve().name for path in (*runs, *folders)]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise BadInput(f"Two of what is compared are called {twice}: rename one of the folders.")
    found = Evaluation(dataset, lq_set, options, pictures.keep if pictures is not None else None)
    rows: list[Row] = []
    lines, about, extra = list_systems(options.references, options.counts), dict[str, Any](), dict[str, list[str]]()
    for run in runs:
        own = found.measure_run(run, lines[1:] if rows else lines, progress, run.resolve().name)
        rows, about[run.resolve().name] = [*rows, *own], found.describe_run(run)
    for folder in folders:
        own, extra[folder.resolve().name] = found.measure_folder(folder, progress, with_input=not rows)
        rows += own
    leaders = [f"{run.resolve().name}/{options.references}" for run in runs] + [path.resolve().name for path in folders]
    first = leaders[0]
    pairs = [(f"{other} - {first}", other, first) for other in leaders[1:]]
    for run in runs:
        name = run.resolve().name
        pairs += [
            (f"{name}: {what}", _of(name, one), _of(name, two))
            for what, one, two in list_differences(options.references)
        ]
    result = found.build_result(rows, pairs) | {"runs": about, "extra": extra}
    if pictures is not None:
        pictures.cases, pictures.rows = found.cases, rows
    write_result(out / "comparison", result, rows)
    return result


class Evaluation:
    """A frozen set with what measures it, for one or several restorers."""

    def __init__(
        self,
        dataset: Path,
        lq_set: str | None,
        options: EvaluationOptions,
        on_image: OnImage | None = None,  # told of every picture that was measured
        most: int | None = None,  # references to read for an image, where that is more than are asked for
        harder: bool = False,  # and those of other poses and likenesses
    ) -> None:
        if options.references < 1:
            raise BadInput("--max-references must be at least 1; the row without references is always there.")
        check_names(options.metrics)
        check_steps(options.steps)
        self.dataset, self.lq_set, self.options, self.on_image = Path(dataset), lq_set, options, on_image
        self.most, self.harder = most or options.references, harder
        self.frozen: FrozenSet | None = None
        self.judge: FaceModels | None = None
        self.own_sha256 = ""  # of the dataset's recognizer
        self.reasons: dict[str, str] = {}
        self.measure: Measure | None = None
        self.checked: dict[Path, bool] = {}
        self.models: dict[Path, Restorer] = {}
        self.set_images: dict[str, list[np.ndarray]] = {}

    @property
    def cases(self) -> tuple[Case, ...]:
        """What was measured."""
        return () if self.frozen is None else self.frozen.cases

    @property
    def names(self) -> list[str]:
        """The metrics that an image has and that can be had here."""
        return [name for name in select_image_metrics(self.options.metrics) if name not in self.reasons]

    def measure_run(self, run: Path, lines: Sequence[System], progress: Progress, label: str = "") -> list[Row]:
        """The rows of a run's newest checkpoint, with its label before each key but the LQ input's."""
        checkpoint = find_newest_checkpoint(run)
        model = move_to_device(load_restorer(checkpoint, self.options.base_model, self.options.steps))
        recognizer = load_restorer_faces(model, self.options.faces)
        frozen, measure = self._begun(model, recognizer)
        self.models[run] = model
        self.checked[run] = check_not_trained_on(self.dataset, checkpoint.parent, frozen.cases)
        rows: list[Row] = []

        def keep(row: Row, image: np.ndarray) -> None:
            self.keep_picture(_labelled(row, label), image)

        for done, case in enumerate(frozen.cases, 1):
            for row in measure_systems(case, model, measure, lines, recognizer, self.names, keep):
                rows.append(_labelled(row, label))
            progress("evaluate", done, len(frozen.cases))
        return rows

    def measure_folder(self, folder: Path, progress: Progress, with_input: bool) -> tuple[list[Row], list[str]]:
        """The rows of images that somebody else restored, the LQ input's too if asked for, and the names of the files
        that belong to none."""
        if self.frozen is None:
            self._begin_alone()
        frozen, measure = self.frozen, self.measure
        assert frozen is not None and measure is not None
        (files, extra), name = match_files(folder, frozen.cases), folder.resolve().name
        rows = []
        with open_reader(limited=True) as read:
            for done, case in enumerate(frozen.cases, 1):
                if with_input:
                    rows.append(measure_input(case, measure, self.names, self.keep_picture))
                file = files.get(case.face_id)
                rows.append(measure_file(case, file, name, name, measure, self.names, read, self.keep_picture))
                progress("evaluate", done, len(frozen.cases))
        return rows, extra

    def build_result(self, rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
        """The figures of `rows` with everything that a reader needs to believe them."""
        assert self.frozen is not None and self.judge is not None
        people = [case.identity_id for case in self.frozen.cases]
        lines, reasons = average_systems(rows, self.names, self.options.seed), dict(self.reasons)
        for name in self.options.metrics:
            if METRICS[name].scope == "set" and name not in reasons:
                self._of_set(name, lines, reasons)
        for line in lines:  # a dash for what cannot be had
            line.update(dict.fromkeys(reasons))
        options = sorted(self.options.metrics, key=lambda name: name in reasons)  # what there is comes first
        return {
            "dataset": str(self.dataset.resolve()),
            "lq_set": self.frozen.name,
            "images": len(self.frozen.cases),
            "images_in_set": self.frozen.images,
            "people": len(set(people)),
            "references": self.options.references,
            "size": self.frozen.cases[0].target.shape[0],
            "judge": {
                "spec": self.judge.spec,
                "sha256": self.judge.recognizer_sha256(),
                "is_the_datasets_own": self.judge.recognizer_sha256() == self.own_sha256,
            },
            "interval": describe_interval(people),
            "without_wrong_references": sum(not case.wrong for case in self.frozen.cases),
            "metrics": {name: _described(name) for name in options},
            "not_measured": reasons,
            "unmeasured": _reasons(rows),
            "rows": lines,
            "differences": average_differences(rows, pairs, self.names, self.options.seed),
        }

    def describe_run(self, run: Path) -> dict[str, Any]:
        """What a result says of one run."""
        facts = self.models[run].facts
        assert self.judge is not None
        return {
            "checkpoint": find_newest_checkpoint(run).name,
            "recipe": facts.get("recipe"),
            "images_seen": facts.get("images"),
            "steps": self.options.steps,
            "unseen_in_training": "checked" if self.checked[run] else "not checked: RUN/snapshot is not there",
        }

    def _begun(self, model: Restorer, recognizer: FaceModels) -> tuple[FrozenSet, Measure]:
        size = model.config.size
        if self.frozen is None:
            self.frozen = read_frozen_set(self.dataset, size, self.lq_set, self.most, self.options.seed, self.harder)
            self.own_sha256 = _recorded(self.dataset)[1]
            self._load(load_faces(self.options.judge) if self.options.judge is not None else recognizer)
        elif self.frozen.cases[0].target.shape[0] != size:
            raise BadInput(
                f"The set has {self.frozen.cases[0].target.shape[0]} px images and one of the restorers works at "
                f"{size} px: compare restorers of one size."
            )
        if model.facts.get("recognizer") is not None and recognizer.recognizer_sha256() != self.own_sha256:
            raise BadInput(
                f"The restorer knows people by {recognizer.spec}, and {self.dataset} was curated with another "
                f"recognizer, so its references are no references to it: curate the photos with --faces "
                f"{recognizer.spec}."
            )
        assert self.measure is not None
        return self.frozen, self.measure

    def _begin_alone(self) -> None:
        """Without a run: the set by its name, or the one test set there is; by the judge, or the dataset's own."""
        self.frozen = read_frozen_set(self.dataset, None, self.lq_set, self.options.references, self.options.seed)
        spec, self.own_sha256 = _recorded(self.dataset)
        self._load(load_faces(self.options.judge or self.options.faces or spec))

    def _load(self, judge: FaceModels) -> None:
        self.judge = judge
        self.measure, self.reasons = build_measure(self.options.metrics, judge, self.options.weights)
        if "fid_folder" in self.options.metrics and self.options.fid_folder is None:
            self.reasons["fid_folder"] = "no folder is named: say --fid-folder FOLDER."

    def keep_picture(self, row: Row, image: np.ndarray) -> None:
        """What becomes of a row's picture."""
        if self.on_image is not None:
            self.on_image(row, image)
        if any(METRICS[name].scope == "set" and name not in self.reasons for name in self.options.metrics):
            self.set_images.setdefault(row["key"], []).append(image)

    def _of_set(self, name: str, lines: list[Row], reasons: dict[str, str]) -> None:
        """One figure a set, without an interval."""
        assert self.frozen is not None
        others = [case.target for case in self.frozen.cases]
        try:
            if name == "fid_folder":
                assert self.options.fid_folder is not None
                with open_reader(limited=True) as read:
                    others = [read(path) for path in list_photos(self.options.fid_folder)]
            for line in lines:
                made = self.set_images.get(line["key"], [])
                line[name] = {"mean": fid(made, others, self.options.weights), "images": len(made)} if made else None
        except BadInput as error:
            reasons[name] = str(error)


def _of(label: str, key: str) -> str:
    return key if key == "lq" or not label else f"{label}/{key}"


def _labelled(row: Row, label: str) -> Row:
    if not label or row["key"] == "lq":
        return row
    return row | {"key": _of(label, row["key"]), "system": f"{label}: {row['system']}"}


def _described(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    return {
        "title": metric.title,
        "unit": metric.unit,
        "better": metric.better,
        "digits": metric.digits,
        "convention": metric.convention,
        "source": metric.source,
        "without_a_figure": metric.nan_reason,
    }


def _reasons(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What could not be measured at all: system, face, reason."""
    return [
        {"key": row["key"], "face_id": row["face_id"], "reason": row["reason"]}
        for row in rows
        if row["reason"] is not None
    ]


def _recorded(dataset: Path) -> tuple[str, str]:
    """Spec and sha256 of a dataset's, or a benchmark's, recognizer."""
    if is_benchmark(dataset):
        recognizer = load_benchmark(dataset).card["recognizer"]
        return "auto", str(recognizer["sha256"])
    with Ledger.open(dataset) as ledger:
        found = read_recognizers(ledger)
    if len(found) != 1:
        raise BadInput(f"The ledger of {dataset} names {len(found)} recognizers: say --judge.")
    return found[0].spec, found[0].sha256


def write_result(stem: Path, result: dict[str, Any], rows: Sequence[Row]) -> None:
    """STEM.json and STEM.parquet."""
    remove_temporary_files(stem.parent, recursive=False, shared=True)
    write_atomically(stem.with_suffix(".json"), json.dumps(result, indent=1).encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    write_atomically(stem.with_suffix(".parquet"), sink.getvalue().to_pybytes())
