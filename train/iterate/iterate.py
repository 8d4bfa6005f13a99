"""Iterate: train, clean the training targets with what was trained, train again on the best of each (IDM's extrinsic
learning; arXiv 2307.08996 published the idea, the rest is ours).

Round 0 is trained on the originals. Between two rounds, every training target that was recorded as soft, noisy or
blocky is restored with references of the same person, and what passes `Bounds` becomes a version of the face. The next
round is trained from scratch, with the same recipe, seed and length, on the newest kept version of each: so two rounds
differ by their targets and by nothing else. A target is always restored from its original, so that what one round got
wrong is not handed on, and must be sharper than the version it takes the place of, by however little.

    DATASET/versions/<iteration>/<round>/<ab>/<face_id>.png     what was kept; the originals never change
    OUT/iterate.json  OUT/round-<n>/                            what the iteration is; a training run a round
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
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
from manifests.runtime.text import make_printable
from train.data.snapshot import Snapshot
from train.data.take_snapshot import plan_targets, take_snapshot
from train.fit.distributed import get_world_size
from train.fit.loop import train
from train.fit.objective import check_weights
from train.fit.settings import Settings, check_images, resolve_settings
from train.iterate.acceptance import RULE, Bounds
from train.iterate.clean import STAGE, Work, clean, find_defects
from train.recipes import VRE, Recipe
from train.run_folders import RUN_CONFIG

ABOUT = "iterate.json"


@dataclass(frozen=True)
class IterationOptions:
    """What decides an iteration beside its dataset."""

    recipe: Recipe
    images: int  # seen in each round
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Round:
    """What became of a round."""

    round: int
    run: str
    images: int  # seen
    targets: int  # of the training split
    cleaned_targets: int  # of these, targets that are trained on in a cleaned version
    attempts: dict[str, int]  # targets that its restorer then cleaned, by defect; empty for the last round
    versions: int
    dropped: dict[str, int]  # by reason


@dataclass(frozen=True)
class IterationSummary:
    """The rounds that were finished, and why there are no more: "complete", "nothing_new" or the name of a signal."""

    rounds: list[Round]
    why: str


def plan(dataset: Path, recipe: Recipe, bounds: Bounds) -> tuple[int, dict[str, int]]:
    """How many training targets there are, and how many of them would be cleaned, by defect. Raises BadInput."""
    targets = plan_targets(dataset, recipe.size)
    with Ledger.open(dataset) as ledger:
        found = find_defects(ledger, targets, bounds)
    return len(targets), dict(Counter(found.values()))


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
    """Train round 0 and `rounds` more, cleaning in between.

    The same call again resumes, after a kill too; more rounds go on from those that are there. `faces` says where the
    recognizer lies now, `models` gives it loaded. A signal ends it with a checkpoint; where no target was cleaned that
    the round before had not, it ends too, since the next round would be the same again. Raises BadInput for a dataset
    without training targets, for what does not go together and for an `out` of another iteration, LedgerBroken,
    ModelUnavailable or FaceModelError.
    """
    check(rounds, options, out)
    check_weights(options.recipe, options.settings.weights)
    models = models or _models(dataset, faces)
    with lock_folder(out):
        return _rounds(dataset, out, options, rounds, models, workers, say, progress)


def _rounds(
    dataset: Path,
    out: Path,
    options: IterationOptions,
    rounds: int,
    models: FaceModels,
    workers: int,
    say: Callable[[str], None],
    progress: Progress,
) -> IterationSummary:
    snapshot = _snapshot(dataset, out, 0, options, models, {})
    iteration = _claim(out, snapshot, options)
    work = Work(dataset, iteration, models, options.bounds, options.settings.base_model, options.recipe.steps)
    targets = [snapshot.face_ids[row] for row in snapshot.targets("train")]
    remove_temporary_files(dataset / VERSIONS_FOLDER / iteration)
    _drop_strayed(dataset)
    finished: list[Round] = []
    for number in range(rounds + 1):
        run = out / f"round-{number}"
        if number:
            with Ledger.open(dataset) as ledger:
                best = select_best_versions(ledger, iteration, number)
            if all(version.round < number - 1 for version in best.values()):
                say(f"No target was cleaned after round {number - 1}: round {number} would be the same again.")
                return IterationSummary(finished, "nothing_new")
            snapshot = _snapshot(dataset, out, number, options, models, best)
        named = partial(_named, progress, number)
        settings = options.settings if not number else replace(options.settings, precision=_precision(out / "round-0"))
        told_to = (options.recipe, options.images, options.seed, None, workers, settings)
        with lock_folder(run):
            ending = train(run, snapshot.folder, *told_to, say=say, progress=named)
        if ending.reason != "complete":
            return IterationSummary(finished, ending.reason)
        _note_training(dataset, iteration, number, snapshot)
        if number < rounds:
            clean(work, number, run, snapshot, targets, named)
        finished.append(_outcome(dataset, iteration, number, run, ending.images, snapshot))
        say(_sentence(finished[-1]))
    return IterationSummary(finished, "complete")


def _snapshot(
    dataset: Path,
    out: Path,
    number: int,
    options: IterationOptions,
    models: FaceModels,
    versions: Mapping[str, CleanedVersion],
) -> Snapshot:
    """What a round is trained on; one that was begun keeps what it began with."""
    run = out / f"round-{number}"
    begun = (run / RUN_CONFIG).is_file()
    return take_snapshot(dataset, run / "snapshot", options.recipe.size, models, replace=not begun, versions=versions)


def _precision(run: Path) -> str:
    """What round 0 was computed in: the others must not differ by it, on whatever machine they are trained."""
    return str(json.loads((run / RUN_CONFIG).read_text(encoding="utf-8"))["precision"])


def _named(progress: Progress, number: int, what: str, done: int, total: int) -> None:
    progress(f"{what} {number}", done, total)


def check(rounds: int, options: IterationOptions, out: Path) -> None:
    """Raises BadInput for what can be refused before anything is loaded."""
    if rounds < 1:
        raise BadInput(f"--rounds {rounds}: say how many rounds follow the first, 1 or more.")
    if get_world_size() > 1:
        raise BadInput(
            f"Iterating is one process's work, and {get_world_size()} were launched: start `likeness iterate` alone."
        )
    if options.recipe.name == VRE:
        raise BadInput("Recipe vre trains no restorer, so there is nothing to clean with: name another --recipe.")
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{make_printable(file)} is a file and an iteration is a folder: name another --out.")
    if out.is_dir() and not (out / ABOUT).is_file():
        others = sorted(p.name for p in out.iterdir() if not p.name.startswith(".") and p.name != "round-0")
        if others:
            raise BadInput(
                f"{make_printable(out)} is not empty and no iteration (it holds {make_printable(others[0])} and "
                f"no {ABOUT}): "
                "name another --out."
            )
    check_images(options.recipe, options.images)
    resolve_settings(options.recipe, options.settings)


def _models(dataset: Path, spec: str | None) -> FaceModels:
    with Ledger.open(dataset) as ledger:
        recognizer = read_recognizer(ledger)
    models = load_faces(spec or recognizer.spec)
    if models.recognizer_sha256() != recognizer.sha256:
        raise ModelUnavailable(
            f"{models.spec} is not the recognizer that {dataset} was made with: say where that one lies with --faces."
        )
    return models


def _claim(out: Path, snapshot: Snapshot, options: IterationOptions) -> str:
    """The iteration's name, by which the ledger knows it; written into OUT/iterate.json, or compared with it."""
    facts = {
        "faces": snapshot.facts["manifest"],
        "recipe": json.loads(json.dumps(asdict(options.recipe))),
        "images": options.images,
        "seed": options.seed,
        "identity": options.settings.identity,
        "base_model": options.settings.base_model,
        "bounds": asdict(options.bounds),
        "rule": RULE,
    }
    facts["iteration"] = hash_config(facts)[:12]
    path = out / ABOUT
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            differs = [name for name, value in facts.items() if there.get(name) != value]
        except (ValueError, AttributeError) as error:
            raise BadInput(f"{make_printable(path)} is not readable as an iteration: name another --out.") from error
        if differs:
            what = "has other faces" if differs[0] == "faces" else f"was begun with another {differs[0]}"
            if differs[0] == "recipe":  # --steps, --mild and --preset are in it
                what += f" ({', '.join(n for n, one in facts['recipe'].items() if there['recipe'].get(n) != one)})"
            raise BadInput(f"{make_printable(out)} {what}: name another --out, or say what it was begun with.")
    else:
        write_atomically(path, json.dumps(facts, indent=2, sort_keys=True).encode())
    return str(facts["iteration"])


def _drop_strayed(dataset: Path) -> None:
    """Versions of people who have since left the training split are dropped, with a reason, and their files removed."""
    with Ledger.open(dataset, write=True) as ledger:
        rows = find_stray_versions(ledger)
        if rows:
            ledger.record(STAGE, sorted({f"{row.iteration}/strayed" for row in rows}), {}, rows)
    for row in rows:
        version_path(dataset, row.iteration, row.round, row.face_id).unlink(missing_ok=True)


def _note_training(dataset: Path, iteration: str, number: int, snapshot: Snapshot) -> None:
    """Which version of every training image a finished round saw, with the round's mark."""
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


def _outcome(dataset: Path, iteration: str, number: int, run: Path, images: int, snapshot: Snapshot) -> Round:
    with Ledger.open(dataset) as ledger:
        rows = ledger.query(
            "SELECT defect, status, reason, count(*) AS n FROM versions WHERE iteration = ? AND round = ? GROUP BY ALL "
            "ORDER BY ALL",
            iteration,
            number,
        ).rows(named=True)

    def count_by(key: str, of: Iterable[dict[str, Any]]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for row in of:
            found[row[key]] += row["n"]
        return dict(found)

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


def _sentence(done: Round) -> str:
    told = f"round {done.round}  trained on {done.targets} targets, {done.cleaned_targets} of them cleaned"
    if not done.attempts:
        return told
    tried = ", ".join(f"{n} {what}" for what, n in done.attempts.items())
    lost = "".join(f", {n} {why}" for why, n in done.dropped.items())
    return f"{told}; restored {tried}: {done.versions} kept{lost}"
