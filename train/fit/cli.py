"""Defines the command `train`. The commands `iterate` and `run` use some options and functions of this file."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.errors import BadInput
from manifests.exit_codes import INTERRUPTED
from manifests.ledger.paths import MAX_SEED, check_ledger_exists
from manifests.runtime.flags import argument, flag

if TYPE_CHECKING:
    from train.fit.loop import Ending
    from train.fit.settings import Settings
    from train.recipes.recipes import Recipe

_TRAINING, _MODELS, _MACHINE = "Training", "Models", "Machine"
# The commands `train` and `iterate` share the following options.
BaseModel = Annotated[
    str | None,
    flag(
        "--base-model",
        "; write tiny for the base that needs no download",
        default="tiny, if the recipe is tiny",
        panel=_MODELS,
    ),
]
VreRun = Annotated[Path | None, flag("--vre", default="none", panel=_MODELS)]
Weights = Annotated[Path | None, flag("--weights", default="torch's cache", panel=_MODELS)]
PresetName = Annotated[str | None, flag("--preset", default="the recipe's preset", panel=_TRAINING)]


def train(
    source: Annotated[
        Path | None, argument("DATASET|SNAPSHOT", "; only --show-recipe works without this argument")
    ] = None,
    out: Annotated[
        Path | None,
        flag("--out", "; to resume, run the same command with the same folder", default=False, metavar="RUN"),
    ] = None,
    recipe: Annotated[str, flag("--recipe", panel=_TRAINING)] = "tiny",
    images: Annotated[int | None, flag("--images", default="the recipe's number", low=1, panel=_TRAINING)] = None,
    minutes: Annotated[float | None, flag("--minutes", default="no limit", low=0, panel=_TRAINING)] = None,
    preset: PresetName = None,
    size: Annotated[
        int | None,
        flag("--size", "; the restorer works at the same size", default="the recipe's size", panel=_TRAINING),
    ] = None,
    batch: Annotated[int | None, flag("--batch", default="the recipe's number", panel=_TRAINING)] = None,
    rate: Annotated[float | None, flag("--rate", default="the recipe's rate", panel=_TRAINING)] = None,
    loss: Annotated[
        list[str] | None, flag("--loss", default="the recipe's losses", repeat=True, panel=_TRAINING)
    ] = None,
    change: Annotated[list[str] | None, flag("--change", default="none", repeat=True, panel=_TRAINING)] = None,
    show_recipe: Annotated[bool, flag("--show-recipe", panel=_TRAINING)] = False,
    identity: Annotated[bool, flag("--identity/--no-identity", panel=_TRAINING)] = True,
    seed: Annotated[int, flag("--seed", low=0, high=MAX_SEED, panel=_TRAINING)] = 0,
    base_model: BaseModel = None,
    vre: VreRun = None,
    weights: Weights = None,
    start: Annotated[Path | None, flag("--start", default="random weights", panel=_MODELS)] = None,
    snapshot: Annotated[Path | None, flag("--snapshot", default="RUN/snapshot", panel=_MACHINE)] = None,
    workers: Annotated[int, flag("--workers", low=0, panel=_MACHINE)] = 1,
    precision: Annotated[
        str | None, flag("--precision", ": fp32 or bf16", default="bf16 if possible", panel=_MACHINE)
    ] = None,
    accumulate: Annotated[int, flag("--accumulate", low=1, panel=_MACHINE)] = 1,
    compile_model: Annotated[bool, flag("--compile", panel=_MACHINE)] = False,
    keep_activations: Annotated[bool, flag("--keep-activations", panel=_MACHINE)] = False,
    degrade_on: Annotated[
        str | None, flag("--degrade-on", default="device on a GPU, else workers", panel=_MACHINE)
    ] = None,
    dry_run: Annotated[bool, flag("--dry-run", "; this option also measures the memory and the speed")] = False,
) -> None:
    """Train a face restorer that uses reference photos of the same person.

    The command writes config.json, snapshot/, stats.jsonl, TensorBoard events, samples/*.png and checkpoint-<images>/
    into RUN. Write `accelerate launch -m likeness train` to train on several GPUs.

    Example: likeness train DATASET --recipe tiny --out RUN
    """
    from manifests.runtime.snapshot_files import FACTS
    from train.recipes.recipes import TINY
    from train.run_folders import check_run_folder

    chosen = choose_recipe(recipe, base_model, preset)
    chosen = _apply_changes(chosen, change or [], loss or [], {"size": size, "batch": batch, "rate": rate})
    if show_recipe:
        from train.recipes.recipe_files import format_recipe

        typer.echo(format_recipe(chosen), nl=False)
        return
    if source is None or out is None:
        missing = "dataset" if source is None else "folder for the run"
        raise BadInput(f"The {missing} is missing: write likeness train DATASET --out RUN.")
    _check_base(chosen, base_model)
    check_run_folder(out)
    if not (source / FACTS).is_file():
        check_ledger_exists(source)
    from train.fit.settings import Settings

    settings = Settings(
        base_model or TINY,
        vre,
        weights,
        start,
        precision,
        accumulate,
        compile_model,
        keep_activations,
        degrade_on,
        identity,
    )
    if dry_run:
        _print_plan(source, out, chosen, images, seed, settings)
        return
    ending = run_training(
        source, out, chosen, images, seed, minutes=minutes, snapshot=snapshot, workers=workers, settings=settings
    )
    if ending.reason.startswith("SIG"):
        raise typer.Exit(INTERRUPTED)


def choose_recipe(name: str, base_model: str | None, preset: str | None) -> Recipe:
    """Returns the recipe that `name` selects, changed by the other arguments.

    `name` is the name of a recipe, or the path of a recipe file, a run or a checkpoint. Raises BadInput if the recipe
    or the preset does not exist.
    """
    from train.recipes.recipes import DIFFUSION, RECIPES, TINY, find_recipe

    base = None if base_model is None else TINY if base_model == TINY else DIFFUSION
    if name not in RECIPES and (name.endswith(".toml") or Path(name).exists()):
        from train.recipes.recipe_files import read_recipe

        recipe = read_recipe(Path(name), base)
    else:
        recipe = find_recipe(name, base)
    if preset is None:
        return recipe
    from train.recipes.recipe_files import use_preset

    return use_preset(recipe, preset)


def _apply_changes(recipe: Recipe, changes: list[str], losses: list[str], short: dict[str, float | None]) -> Recipe:
    """Returns the recipe, changed first by --change, then by --loss, then by each value of `short` that is not None."""
    from train.recipes.recipe_files import change_recipe, split_change

    for text in changes:
        recipe = change_recipe(recipe, f"--change {text}", *split_change("--change", text))
    for text in losses:
        name, weight = split_change("--loss", text)
        recipe = change_recipe(recipe, f"--loss {text}", f"loss.{name}", weight)
    for name, value in short.items():
        if value is not None:
            recipe = change_recipe(recipe, f"--{name} {value:g}", name, value)
    return recipe


def _check_base(recipe: Recipe, base_model: str | None) -> None:
    from train.recipes.recipes import DIFFUSION, STYLEGAN, TINY

    if recipe.base == DIFFUSION and base_model in (None, TINY):
        raise BadInput(
            f"Recipe {recipe.name} trains a diffusion model: give --base-model FOLDER (Stable Diffusion 2.1-base in "
            "diffusers' layout)."
        )
    if (recipe.base == STYLEGAN and base_model is not None) or (recipe.base == TINY and base_model not in (None, TINY)):
        raise BadInput(f"Recipe {recipe.name} uses the base {recipe.base}: leave --base-model {base_model} out.")


def run_training(
    source: Path,
    out: Path,
    recipe: str | Recipe,
    images: int | None,
    seed: int,
    *,
    minutes: float | None = None,
    snapshot: Path | None = None,
    workers: int = 1,
    settings: Settings | None = None,
    quiet: bool = False,
) -> Ending:
    """Takes the snapshot if it is missing, then trains or resumes the run, and prints the result.

    With `quiet`, the function prints to standard error. If several processes train together, the first process checks
    the arguments and takes the snapshot, while the other processes wait. Raises BadInput or LedgerError before the
    training starts.
    """
    from manifests.runtime.files import lock_folder
    from manifests.runtime.progress import show_progress
    from manifests.runtime.snapshot_files import FACTS
    from train.data.take_snapshot import take_snapshot
    from train.fit.distributed import get_rank, leave_processes, run_on_first
    from train.fit.loop import train as loop
    from train.fit.objective import check_weights
    from train.fit.settings import Settings, check_images, resolve_settings
    from train.recipes.recipes import find_recipe
    from train.run_folders import check_run_folder

    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    chosen_settings = settings or Settings()
    is_snapshot = (source / FACTS).is_file()
    folder = source if is_snapshot else snapshot or out / "snapshot"

    def say(sentence: str) -> None:
        if not get_rank():
            typer.echo(sentence, err=quiet)

    def check() -> None:
        check_run_folder(out)
        check_images(chosen, chosen.images if images is None else images)
        resolve_settings(chosen, chosen_settings)  # reports a missing file now, and not after the slow snapshot
        check_weights(chosen, chosen_settings.weights)

    def prepare() -> None:
        if not is_snapshot:
            take_snapshot(source, folder, chosen.size, replace=not (out / "config.json").is_file())

    with ExitStack() as stack:
        run_on_first(check)
        run_on_first(lambda: stack.enter_context(lock_folder(out)))
        run_on_first(prepare)
        progress = stack.enter_context(show_progress("images", quiet or get_rank() > 0))
        ending = loop(out, folder, chosen, images, seed, minutes, workers, chosen_settings, say=say, progress=progress)
    pace = ""
    if ending.images_per_second:
        step = chosen.batch / ending.images_per_second
        pace = f", {ending.images_per_second:.1f} images/s, {step:.2f} s a step"
        pace += f", {ending.data_wait:.1%} of the time waiting for data"
    say(f"trained: {ending.images} images seen{pace}: {ending.checkpoint}")
    leave_processes()
    return ending


def _print_plan(source: Path, out: Path, recipe: Recipe, images: int | None, seed: int, settings: Settings) -> None:
    from manifests.runtime.snapshot_files import FACTS
    from train.data.snapshot import load_snapshot
    from train.data.take_snapshot import plan_snapshot
    from train.fit.dry_run import describe_run, measure_training

    is_snapshot = (source / FACTS).is_file()
    counts = load_snapshot(source).facts["counts"] if is_snapshot else plan_snapshot(source, recipe.size)
    sentences = [*describe_run(recipe, settings), *measure_training(source, recipe, seed, settings)]
    targets, people = _format_counts(counts["targets"]), _format_counts(counts["people"])
    typer.echo(f"Would train {recipe.name} at {recipe.size} px for {images or recipe.images} images into {out}.")
    typer.echo(f"Faces: {counts['faces']}. Targets: {targets}. People: {people}.")
    if counts["left_out"]:
        typer.echo(f"These faces cannot be targets: {_format_counts(counts['left_out'])}.")
    typer.echo("\n".join(sentences))


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))
