"""Defines the command `iterate`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from manifests.exit_codes import INTERRUPTED
from manifests.ledger.paths import MAX_SEED, check_ledger_exists
from manifests.runtime.flags import argument, flag
from train.fit.cli import BaseModel, PresetName, VreRun, Weights, choose_recipe
from train.models.config import MOST_STEPS

_TRAINING, _MODELS = "Training", "Models"

# The share of mild degradations (ours). Without mild degradations, recipe `tiny` smooths images that are nearly good.
# With a share of .5 and absolute differences as pixel losses, recipe `tiny` learned only a sharpening filter in 9,600
# images (docs/iterate.md).
MILD_SHARE = 0.25


def iterate(
    dataset: Annotated[Path, argument("DATASET")],
    out: Annotated[
        Path | None, flag("--out", "; this folder contains all rounds", default="DATASET/iterate", metavar="FOLDER")
    ] = None,
    rounds: Annotated[int, flag("--rounds", panel=_TRAINING)] = 2,
    recipe: Annotated[str, flag("--recipe", panel=_TRAINING)] = "tiny",
    images: Annotated[
        int | None,
        flag(
            "--images",
            "; each round trains on this number of images",
            default="the recipe's number",
            low=1,
            panel=_TRAINING,
        ),
    ] = None,
    preset: PresetName = None,
    mild: Annotated[float, flag("--mild", low=0, high=1, panel=_TRAINING)] = MILD_SHARE,
    steps: Annotated[
        int,
        flag("--steps", low=1, high=MOST_STEPS, panel=_TRAINING),
    ] = 1,
    identity: Annotated[bool, flag("--identity/--no-identity", panel=_TRAINING)] = True,
    seed: Annotated[int, flag("--seed", low=0, high=MAX_SEED, panel=_TRAINING)] = 0,
    faces: Annotated[str | None, flag("--faces", default="the dataset's models", panel=_MODELS)] = None,
    base_model: BaseModel = None,
    vre: VreRun = None,
    weights: Weights = None,
    workers: Annotated[int, flag("--workers", low=0)] = 1,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Train a restorer, use it to clean soft, noisy and blocky training targets, and train again on the best versions.

    A cleaned target is used only if it has better measures than the original and shows the same person. The files of
    the originals never change. The splits `val` and `test` never contain a cleaned image. If the command was stopped,
    give the same command again to continue.

    Example: likeness iterate DATASET --rounds 2
    """
    from train.recipes.recipes import TINY

    # The command cleans targets without fine detail. With fine_repeats=1, --mild applies to these targets too.
    full_recipe = replace(
        choose_recipe(recipe, base_model, preset), mixture={"mild": mild} if mild else {}, fine_repeats=1
    )
    folder = out or dataset / "iterate"
    check_ledger_exists(dataset)
    from train.fit.settings import Settings
    from train.iterate.iterate import IterationOptions, check_options, count_defects

    options = IterationOptions(
        full_recipe,
        full_recipe.images if images is None else images,
        seed,
        Settings(base_model or TINY, vre, weights, identity=identity),
        steps=steps,
    )
    check_options(rounds, options, folder)
    if dry_run:
        targets, defects = count_defects(dataset, full_recipe, options.bounds)
        if as_json:
            typer.echo(json.dumps({"targets": targets, "defects": defects, "rounds": rounds, "out": str(folder)}))
            return
        counts = ", ".join(f"{count} {defect}" for defect, count in sorted(defects.items())) or "none"
        typer.echo(
            f"Would train {full_recipe.name} at {full_recipe.size} px {rounds + 1} times into {folder}, each time with "
            f"{options.images} images of {targets} targets. Would clean targets between two trainings: {counts}."
        )
        return
    from manifests.runtime.progress import show_progress
    from train.iterate.iterate import iterate as run_rounds

    with show_progress("images", as_json) as progress:
        result = run_rounds(
            dataset,
            folder,
            options,
            rounds,
            faces=faces,
            workers=workers,
            say=lambda sentence: typer.echo(sentence, err=as_json),
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    if result.reason.startswith("SIG"):
        raise typer.Exit(INTERRUPTED)
