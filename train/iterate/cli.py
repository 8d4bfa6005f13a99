"""The command of iterated training. likeness.py mounts it and turns errors into a sentence."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from manifests.ledger.paths import MAX_SEED
from train.fit.cli import RECIPE_HELP, BaseModel, PresetName, Steps, VreRun, Weights, chosen_recipe

# Ours. Of halves the pull of the L1 losses is the same, to change nothing and to mend: after 9,600 images tiny had
# learned a sharpening filter and nothing else. Without mild ones it smooths what is nearly good.
MILD_SHARE = 0.25


def iterate(
    dataset: Annotated[Path, typer.Argument(help="A dataset.", metavar="DATASET", show_default=False)],
    rounds: Annotated[int, typer.Option(help="Rounds of cleaning and training again, after the first training.")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the rounds' runs go.", metavar="FOLDER", show_default="DATASET/iterate"),
    ] = None,
    recipe: Annotated[str, typer.Option(help=RECIPE_HELP)] = "tiny",
    images: Annotated[
        int | None, typer.Option(min=1, help="Images seen in each round.", show_default="the recipe's")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Every draw of every round follows from it.")] = 0,
    steps: Steps = None,
    identity: Annotated[
        bool, typer.Option("--identity/--no-identity", help="The identity loss, through the dataset's recognizer.")
    ] = True,
    faces: Annotated[
        str | None, typer.Option(help="Where the recognizer's files lie now.", show_default="as curated")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare data; results do not depend on it.")] = 1,
    base_model: BaseModel = None,
    vre: VreRun = None,
    weights: Weights = None,
    preset: PresetName = None,
    mild: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the images that are degraded mildly instead, as targets are."),
    ] = MILD_SHARE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what became of the rounds as JSON only.")] = False,
) -> None:
    """Train, clean the soft, noisy and blocky training targets with the result, and train again on the best of each.

    A cleaned target is kept where it is measurably better and still the same person; originals never change, and val
    and test never see a cleaned picture. The same command again resumes.

    Example: likeness iterate DATASET --rounds 2
    """
    from train.fit.settings import Settings
    from train.iterate.iterate import IterationOptions, check, plan
    from train.iterate.iterate import iterate as run
    from train.recipes import TINY

    chosen, folder = (
        replace(chosen_recipe(recipe, base_model, preset, steps), mild_share=mild),
        out or dataset / "iterate",
    )
    options = IterationOptions(
        chosen,
        chosen.images if images is None else images,
        seed,
        Settings(base_model or TINY, vre, weights, identity=identity),
    )
    check(rounds, options, folder)
    if dry_run:
        targets, defects = plan(dataset, chosen, options.bounds)
        if as_json:
            typer.echo(json.dumps({"targets": targets, "defects": defects, "rounds": rounds, "out": str(folder)}))
            return
        said = ", ".join(f"{count} {what}" for what, count in sorted(defects.items())) or "none"
        typer.echo(
            f"Would train {rounds + 1} rounds of {chosen.name} at {chosen.size} px, {options.images} images each, into "
            f"{folder}, on {targets} targets, and clean in between those with a defect: {said}."
        )
        return
    from manifests.runtime.progress import show_progress

    with show_progress("images", as_json) as progress:
        done = run(
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
        typer.echo(json.dumps(asdict(done)))
    if done.why.startswith("SIG"):
        raise typer.Exit(130)
