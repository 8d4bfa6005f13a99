"""The commands of this folder. likeness.py mounts them and turns errors into a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

_RECIPE_HELP = "What to train; docs/train.md lists the recipes and their numbers."


def _patient_threads() -> None:
    """Must run before torch is imported. OpenMP's threads spin while they wait for each other; on cores that others use
    too, that made a step four times slower (ours, measured: 8.1 s against 1.9 s), and on idle cores it gains nothing."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def train(
    source: Annotated[
        Path, typer.Argument(help="A dataset, or a snapshot folder of one.", metavar="DATASET", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The run's folder; the same command again resumes it.", metavar="RUN")],
    recipe: Annotated[str, typer.Option(help=_RECIPE_HELP)] = "tiny",
    images: Annotated[
        int | None, typer.Option(min=1, help="End after this many images seen.", show_default="the recipe's")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="End after this time at the latest, with a checkpoint.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Every draw follows from it.")] = 0,
    snapshot: Annotated[
        Path | None, typer.Option(help="Where the snapshot of the dataset goes.", show_default="RUN/snapshot")
    ] = None,
    identity: Annotated[
        bool, typer.Option("--identity/--no-identity", help="The identity loss, through the dataset's recognizer.")
    ] = True,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare data; results do not depend on it.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained; write nothing.")] = False,
) -> None:
    """Train a one-step face restorer with references.

    RUN gets config.json, snapshot/, stats.jsonl, TensorBoard events, samples/*.png and checkpoint-<images>/.

    Example: likeness train DATASET --recipe tiny --out RUN
    """
    _patient_threads()
    from train.recipes import find_recipe
    from train.snapshot import FACTS, load_snapshot, plan_snapshot, take_snapshot

    chosen = find_recipe(recipe)
    ready = (source / FACTS).is_file()
    if dry_run:
        counts = load_snapshot(source).facts["counts"] if ready else plan_snapshot(source, chosen.size)
        typer.echo(f"Would train {recipe} at {chosen.size} px for {images or chosen.images} images into {out}.")
        typer.echo(f"Faces {counts['faces']}, targets {counts['targets']}, people {counts['people']}.")
        if counts["left_out"]:
            typer.echo(f"Left out as targets: {counts['left_out']}.")
        return
    folder = source if ready else snapshot or out / "snapshot"
    if not ready:
        take_snapshot(source, folder, chosen.size)
    from train.loop import train as run_training

    ending = run_training(
        out, folder, chosen, images=images, seed=seed, minutes=minutes, identity=identity, workers=workers, say=typer.echo
    )
    if ending.images_per_second:
        typer.echo(f"{ending.images_per_second:.1f} images/s, {ending.data_wait:.1%} of the time waiting for data.")
    typer.echo(f"{ending.checkpoint}")
