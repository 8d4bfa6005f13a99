"""Iterate: train, clean the training targets with the trained restorer, and train again on the cleaned targets.

The idea is from the abstract of IDM (arXiv 2307.08996), where it is called extrinsic learning. All details are ours.
Round 0 is trained on the originals. Between two rounds, each training target that is soft, noisy or blocky is restored
with references of the same person. A result that passes all checks of `Bounds` becomes a version of the face. The next
round is trained from scratch on the newest version of each face. All rounds have the same recipe, seed and length, so
two rounds differ only in their targets. The input of the cleaning is always the original of a target, so a round does
not build on the errors of earlier rounds.

    `DATASET/versions/<iteration>/<round>/<ab>/<face_id>.png` is an accepted version. `<ab>` are the first two letters
    of the face id. The originals never change.
    `OUT/iterate.json` has the options of the iteration.
    `OUT/round-<n>/` is the training run of a round.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from manifests.errors import BadInput, ModelUnavailable
from manifests.ledger.cleaned_targets import VERSIONS_FOLDER, find_stray_versions, select_best_versions, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizer
from manifests.ledger.records import CleanedVersion, TrainingImage
from manifests.runtime.files import (
    find_blocking_file,
    hash_config,
    lock_folder,
    remove_temporary_files,
    write_atomically,
)
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count, make_printable
from train.data.snapshot import Snapshot
from train.data.take_snapshot import plan_targets, take_snapshot
from train.fit.distributed import get_world_size
from train.fit.loop import train
from train.fit.objective import check_weights
from train.fit.settings import Settings, check_images, resolve_settings
from train.iterate.acceptance import RULE, Bounds
from train.iterate.clean import STAGE, CleaningJob, clean_targets, find_defects
from train.models.config import check_steps
from train.recipes.recipes import DIFFUSION, VRE, Recipe
from train.run_folders import RUN_CONFIG

OPTIONS_FILE = "iterate.json"

ATTEMPTS_OF_ROUND = """
    SELECT defect, status, reason, count(*) AS n FROM versions WHERE iteration = ? AND round = ?
    GROUP BY ALL ORDER BY ALL"""


@dataclass(frozen=True)
class IterationOptions:
    """Holds the recipe and the options that all rounds of an iteration have."""

    recipe: Recipe
    images: int  # number of images seen in the training of each round
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    bounds: Bounds = field(default_factory=Bounds)
    steps: int = 1  # number of steps of the restorer when it cleans a target


@dataclass(frozen=True)
class Round:
    """Describes a finished round: its training, and the targets that its restorer cleaned."""

    round: int
    run: str
    images: int  # Number of images seen in the training.
    targets: int  # Number of targets in the training split.
    cleaned_targets: int  # Number of targets whose cleaned version this round's training used.
    attempts: dict[str, int]  # Maps a defect to the number of targets that this round's restorer tried to clean.
    versions: int  # Number of accepted results of this round's restorer.
    dropped: dict[str, int]  # Maps a reason to the number of rejected results of this round's restorer.


@dataclass(frozen=True)
class IterationSummary:
    """Holds the finished rounds. `reason` is "complete", "nothing_new" (a round cleaned no target), or the name of the
    signal that ended the call."""

    rounds: list[Round]
    reason: str


def count_defects(dataset: Path, recipe: Recipe, bounds: Bounds) -> tuple[int, dict[str, int]]:
    """Returns the number of training targets, and the number of targets with each defect. Raises BadInput if the
    dataset has no training target, or has decisions that are not applied yet."""
    targets = plan_targets(dataset, recipe.size)
    with Ledger.open(dataset) as ledger:
        defects = find_defects(ledger, targets, bounds)
    return len(targets), dict(Counter(defects.values()))


def iterate(
    dataset: Path,
    out: Path,
    options: IterationOptions,
    rounds: int,
    *,
    faces: str | None = None,
    models: FaceModels | None = None,
    workers: int = 1,
    say: Callable[[str], None] = print,
    progress: Progress = lambda *_: None,
) -> IterationSummary:
    """Trains round 0 and `rounds` more rounds, and cleans the targets in between.

    After a signal, the iteration saves a checkpoint and ends early. The same call then continues the iteration. A call
    with a larger `rounds` continues a finished iteration. The iteration also ends if a round cleaned no target, because
    the next round would train on the same images.

    `faces` is a value of the option --faces, which is needed if the files of the dataset's recognizer were moved.
    `models` are the face models, if they are already loaded.

    Raises BadInput if the dataset has no training targets, if options contradict each other, or if `out` belongs to
    another iteration. Raises ModelUnavailable if the recognizer is not the recognizer of the dataset.
    """
    check_options(rounds, options, out)
    check_weights(options.recipe, options.settings.weights)
    models = models or _load_faces(dataset, faces)
    with lock_folder(out):
        return _run_rounds(dataset, out, options, rounds, models, workers, say, progress)


def _run_rounds(
    dataset: Path,
    out: Path,
    options: IterationOptions,
    rounds: int,
    models: FaceModels,
    workers: int,
    say: Callable[[str], None],
    progress: Progress,
) -> IterationSummary:
    # Take the snapshot of the originals, compute the id of the iteration, and remove what a killed call left behind.
    snapshot = _take_snapshot(dataset, out, 0, options, models, {})
    iteration = _claim_folder(out, snapshot, options)
    base_model = options.settings.base_model if options.recipe.base == DIFFUSION else None
    job = CleaningJob(dataset, iteration, models, options.bounds, base_model, options.steps)
    targets = [snapshot.face_ids[row] for row in snapshot.targets("train")]
    remove_temporary_files(dataset / VERSIONS_FOLDER / iteration)
    _drop_stray_versions(dataset)
    finished_rounds: list[Round] = []
    for number in range(rounds + 1):
        run = out / f"round-{number}"
        # Take the snapshot of the round, which has the newest version of each target.
        if number:
            with Ledger.open(dataset) as ledger:
                best = select_best_versions(ledger, iteration, number)
            if all(version.round < number - 1 for version in best.values()):
                say(f"Round {number - 1} cleaned no target, so round {number} would train on the same images.")
                return IterationSummary(finished_rounds, "nothing_new")
            snapshot = _take_snapshot(dataset, out, number, options, models, best)

        def report_round(stage: str, done: int, total: int, number: int = number) -> None:
            progress(f"{stage} {number}", done, total)

        # Train from scratch, and then clean the targets for the next round.
        settings = options.settings
        if number:
            settings = replace(settings, precision=_read_precision(out / "round-0"))
        with lock_folder(run):
            ending = train(
                run,
                snapshot.folder,
                options.recipe,
                options.images,
                options.seed,
                None,
                workers,
                settings,
                say=say,
                progress=report_round,
            )
        if ending.reason != "complete":
            return IterationSummary(finished_rounds, ending.reason)
        _record_training(dataset, iteration, number, snapshot)
        if number < rounds:
            clean_targets(job, number, run, snapshot, targets, report_round)
        finished_rounds.append(_summarize_round(dataset, iteration, number, run, ending.images, snapshot))
        say(_describe_round(finished_rounds[-1]))
    return IterationSummary(finished_rounds, "complete")


def _take_snapshot(
    dataset: Path,
    out: Path,
    number: int,
    options: IterationOptions,
    models: FaceModels,
    versions: Mapping[str, CleanedVersion],
) -> Snapshot:
    """Takes the snapshot of a round. If the training of the round has already begun, the snapshot with which it began
    is kept."""
    run = out / f"round-{number}"
    replace_earlier = not (run / RUN_CONFIG).is_file()
    return take_snapshot(dataset, run / "snapshot", options.recipe.size, models, replace_earlier, versions)


def _read_precision(run: Path) -> str:
    """Returns the precision of round 0. All later rounds use the same precision, even on another machine."""
    return str(json.loads((run / RUN_CONFIG).read_text(encoding="utf-8"))["precision"])


def check_options(rounds: int, options: IterationOptions, out: Path) -> None:
    """Raises BadInput if an option or the folder `out` is wrong. Loads no model and no data."""
    if rounds < 1:
        raise BadInput(f"--rounds {rounds} is too small: give at least 1. Round 0 does not count.")
    if get_world_size() > 1:
        raise BadInput(
            f"`likeness iterate` runs in one process, but {get_world_size()} processes were started: run the command "
            "without accelerate and torchrun."
        )
    if options.recipe.name == VRE:
        raise BadInput("Recipe vre trains no restorer, so it cannot clean targets: give another recipe with --recipe.")
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(
            f"{make_printable(file)} is a file, but an iteration is a folder: give another folder with --out."
        )
    if out.is_dir() and not (out / OPTIONS_FILE).is_file():
        others = sorted(p.name for p in out.iterdir() if not p.name.startswith(".") and p.name != "round-0")
        if others:
            raise BadInput(
                f"{make_printable(out)} is not an iteration: it contains {make_printable(others[0])} but no "
                f"{OPTIONS_FILE}. Give another folder with --out."
            )
    check_steps(options.steps, options.recipe.denoise)
    check_images(options.recipe, options.images)
    resolve_settings(options.recipe, options.settings)


def _load_faces(dataset: Path, spec: str | None) -> FaceModels:
    with Ledger.open(dataset) as ledger:
        recognizer = read_recognizer(ledger)
    models = load_faces(spec or recognizer.spec)
    if models.recognizer_sha256() != recognizer.sha256:
        raise ModelUnavailable(
            f"{models.spec} is not the recognizer with which {dataset} was curated: give the folder of that recognizer "
            "with --faces."
        )
    return models


def _claim_folder(out: Path, snapshot: Snapshot, options: IterationOptions) -> str:
    """Writes OUT/iterate.json with the options, and returns the id of the iteration: a hash of the options and of the
    faces.

    If OUT/iterate.json exists, the file is not changed. Raises BadInput if the file has other options or other faces.
    """
    facts = {
        "faces": snapshot.facts["manifest"],
        "recipe": json.loads(json.dumps(asdict(options.recipe))),
        "images": options.images,
        "seed": options.seed,
        "identity": options.settings.identity,
        "base_model": options.settings.base_model,
        "bounds": asdict(options.bounds),
        "rule": RULE,
        "steps": options.steps,
    }
    facts["iteration"] = hash_config(facts)[:12]
    path = out / OPTIONS_FILE
    if not path.is_file():
        write_atomically(path, json.dumps(facts, indent=2, sort_keys=True).encode())
        return str(facts["iteration"])
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differences = [name for name, value in facts.items() if earlier.get(name) != value]
    except (ValueError, AttributeError) as error:
        raise BadInput(
            f"{make_printable(path)} does not contain the options of an iteration: give another folder with --out."
        ) from error
    if differences:
        if differences[0] == "faces":
            problem = f"{make_printable(out)} was begun with different faces of the dataset"
        else:
            problem = f"{make_printable(out)} was begun with a different value of {differences[0]}"
        if differences[0] == "recipe":  # --mild and --preset are fields of the recipe
            fields = [name for name, value in facts["recipe"].items() if earlier["recipe"].get(name) != value]
            problem += f" ({', '.join(fields)})"
        raise BadInput(f"{problem}: use the same options again, or give another folder with --out.")
    return str(facts["iteration"])


def _drop_stray_versions(dataset: Path) -> None:
    """Drops the versions of people who are no longer in the training split, and removes the files of the dropped
    versions."""
    with Ledger.open(dataset, write=True) as ledger:
        rows = find_stray_versions(ledger)
        if rows:
            ledger.record(STAGE, sorted({f"{row.iteration}/strayed" for row in rows}), {}, rows)
    for row in rows:
        version_path(dataset, row.iteration, row.round, row.face_id).unlink(missing_ok=True)


def _record_training(dataset: Path, iteration: str, number: int, snapshot: Snapshot) -> None:
    """Records which version of each training image a finished round used."""
    unit, config = f"{iteration}/train-{number}", {"snapshot": snapshot.hash}
    with Ledger.open(dataset, write=True) as ledger:
        if unit in ledger.find_finished(STAGE, config):
            return
        rows = [
            TrainingImage(iteration, number, face, version)
            for face, split, version in zip(snapshot.face_ids, snapshot.splits, snapshot.versions, strict=True)
            if split == "train"
        ]
        ledger.record(STAGE, unit, config, rows, detail={"targets": len(snapshot.targets("train"))})


def _summarize_round(dataset: Path, iteration: str, number: int, run: Path, images: int, snapshot: Snapshot) -> Round:
    with Ledger.open(dataset) as ledger:
        rows = ledger.query(ATTEMPTS_OF_ROUND, iteration, number).rows(named=True)

    def count_by(column: str, rows: Iterable[dict[str, Any]]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for row in rows:
            counts[row[column]] += row["n"]
        return dict(counts)

    targets = snapshot.targets("train")
    return Round(
        round=number,
        run=str(run),
        images=images,
        targets=len(targets),
        cleaned_targets=sum(snapshot.versions[row] is not None for row in targets),
        attempts=count_by("defect", rows),
        versions=sum(row["n"] for row in rows if row["status"] == "ok"),
        dropped=count_by("reason", (row for row in rows if row["status"] != "ok")),
    )


def _describe_round(round_: Round) -> str:
    """Returns sentences for the user, for example: Round 0 was trained on 12 targets, and 0 of them were cleaned."""
    targets = format_count(round_.targets, "target")
    sentence = f"Round {round_.round} was trained on {targets}, and {round_.cleaned_targets} of them were cleaned."
    if not round_.attempts:
        return sentence
    attempts = ", ".join(f"{count} {defect}" for defect, count in round_.attempts.items())
    total = format_count(sum(round_.attempts.values()), "target")
    rejections = "".join(f", {count} rejected ({reason})" for reason, count in round_.dropped.items())
    return (
        f"{sentence} The restorer of round {round_.round} tried to clean {total} ({attempts}): {round_.versions} "
        f"accepted{rejections}."
    )
