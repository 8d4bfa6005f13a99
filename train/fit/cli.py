"""The commands of this folder. likeness.py mounts them and turns errors into a sentence."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.ledger.paths import MAX_SEED
from manifests.runtime.text import format_count, make_printable

if TYPE_CHECKING:
    from train.fit.loop import Ending
    from train.fit.settings import Settings
    from train.recipes import Recipe

RECIPE_HELP = "What to train; docs/recipes.md says what each is made of."
# options that `iterate` has as well
BaseModel = Annotated[
    str | None,
    typer.Option(
        help="Stable Diffusion 2.1-base in diffusers' layout, or tiny.",
        metavar="FOLDER|tiny",
        show_default="tiny for recipe tiny",
    ),
]
VreRun = Annotated[
    Path | None,
    typer.Option(help="A run of recipe vre, for the recipes that it conditions.", metavar="RUN", show_default="none"),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Where the networks of perceptual losses lie.", metavar="FOLDER", show_default="torch's cache"),
]
PresetName = Annotated[str | None, typer.Option(help="Of the degradation.", show_default="the recipe's")]
Steps = Annotated[
    int | None, typer.Option(min=1, max=8, help="Steps that a restoration may take.", show_default="the recipe's")
]


def train(
    source: Annotated[
        Path, typer.Argument(help="A dataset, or a snapshot folder of one.", metavar="DATASET", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The run's folder; the same command again resumes it.", metavar="RUN")],
    recipe: Annotated[str, typer.Option(help=RECIPE_HELP)] = "tiny",
    images: Annotated[
        int | None, typer.Option(min=1, help="End after this many images seen.", show_default="the recipe's")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="End after this time at the latest, with a checkpoint.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Every draw follows from it.")] = 0,
    snapshot: Annotated[
        Path | None, typer.Option(help="Where the snapshot of the dataset goes.", show_default="RUN/snapshot")
    ] = None,
    identity: Annotated[
        bool, typer.Option("--identity/--no-identity", help="The identity loss, through the dataset's recognizer.")
    ] = True,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare data; results do not depend on it.")] = 1,
    base_model: BaseModel = None,
    vre: VreRun = None,
    weights: Weights = None,
    preset: PresetName = None,
    steps: Steps = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16.", show_default="bf16 on a GPU that has it, else fp32")
    ] = None,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts that a batch is computed in, one after the other, to need less memory.")
    ] = 1,
    compile_model: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, how large and how fast; write nothing.")
    ] = False,
) -> None:
    """Train a face restorer with references, of one step or a few; on several GPUs, `accelerate launch -m likeness
    train` instead.

    RUN gets config.json, snapshot/, stats.jsonl, TensorBoard events, samples/*.png and checkpoint-<images>/.

    Example: likeness train DATASET --recipe tiny --out RUN
    """
    from train.fit.settings import Settings
    from train.recipes import TINY

    settings = Settings(base_model or TINY, vre, weights, precision, accumulate, compile_model, identity)
    chosen = chosen_recipe(recipe, base_model, preset, steps)
    if dry_run:
        _say_plan(source, out, chosen, images, seed, settings)
        return
    ending = run_training(
        source, out, chosen, images, seed, minutes=minutes, snapshot=snapshot, workers=workers, settings=settings
    )
    if ending.reason.startswith("SIG"):
        raise typer.Exit(130)


def chosen_recipe(name: str, base_model: str | None, preset: str | None, steps: int | None) -> Recipe:
    """The recipe that a command names, with what it says otherwise. Raises BadInput."""
    from degrade.presets import find_preset
    from train.recipes import DIFFUSION, TINY, find_recipe

    base = None if base_model is None else TINY if base_model == TINY else DIFFUSION
    recipe = find_recipe(name, base)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    return recipe if preset is None else dataclasses.replace(recipe, preset=find_preset(preset).name)


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
    """Take the snapshot where it is missing, train or resume, and say how it went; `quiet` says it on standard
    error."""
    from manifests.runtime.files import lock_folder
    from manifests.runtime.progress import show_progress
    from train.data.snapshot import FACTS
    from train.data.take_snapshot import take_snapshot
    from train.fit.distributed import get_rank, leave_processes, run_on_first
    from train.fit.loop import train as loop
    from train.fit.objective import check_weights
    from train.fit.settings import Settings, check_images, resolve_settings
    from train.recipes import find_recipe
    from train.run_folders import check_run_folder

    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    told, ready = settings or Settings(), (source / FACTS).is_file()
    folder = source if ready else snapshot or out / "snapshot"

    def say(sentence: str) -> None:
        if not get_rank():
            typer.echo(sentence, err=quiet)

    def check() -> None:
        check_run_folder(out)
        check_images(chosen, chosen.images if images is None else images)
        resolve_settings(chosen, told)  # what is missing is said before a long snapshot is taken
        check_weights(chosen, told.weights)

    def prepare() -> None:
        if not ready:
            take_snapshot(source, folder, chosen.size, replace=not (out / "config.json").is_file())

    with ExitStack() as held:
        run_on_first(check)
        run_on_first(lambda: held.enter_context(lock_folder(out)))
        run_on_first(prepare)
        progress = held.enter_context(show_progress("images", quiet or get_rank() > 0))
        ending = loop(out, folder, chosen, images, seed, minutes, workers, told, say=say, progress=progress)
    pace = f", {ending.images_per_second:.1f} images/s, {ending.data_wait:.1%} of the time waiting for data"
    say(f"trained  {ending.images} images seen{pace if ending.images_per_second else ''}: {ending.checkpoint}")
    leave_processes()
    return ending


def _say_plan(source: Path, out: Path, recipe: Recipe, images: int | None, seed: int, settings: Settings) -> None:
    from train.data.snapshot import FACTS, load_snapshot
    from train.data.take_snapshot import plan_snapshot
    from train.fit.dry_run import describe_run, measure_training
    from train.run_folders import check_run_folder

    ready = (source / FACTS).is_file()
    check_run_folder(out)
    counts = load_snapshot(source).facts["counts"] if ready else plan_snapshot(source, recipe.size)
    sentences = [*describe_run(recipe, settings), *measure_training(source, recipe, seed, settings)]
    typer.echo(f"Would train {recipe.name} at {recipe.size} px for {images or recipe.images} images into {out}.")
    typer.echo(f"Faces: {counts['faces']}. Targets: {_told(counts['targets'])}. People: {_told(counts['people'])}.")
    if counts["left_out"]:
        typer.echo(f"Left out as targets: {_told(counts['left_out'])}.")
    typer.echo("\n".join(sentences))


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))


def restore(
    inputs: Annotated[list[Path], typer.Argument(help="Photos and folders of photos.", metavar="IMAGE|FOLDER...")],
    run: Annotated[
        Path,
        typer.Option(
            help="A training run, one checkpoint of it, or OSDFace's own weights.", metavar="RUN|osdface:FOLDER"
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Where the restored photos go, as PNG; others that lie there stay.", metavar="DIR")
    ],
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="A photo of the same person, or a folder of them; may be given again.", show_default="none"),
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Inputs are square FFHQ-template crops; outputs have the restorer's size.")
    ] = False,
    box: Annotated[
        str | None,
        typer.Option(help="x0,y0,x1,y1 in pixels: the face in a photo where none is found.", show_default="none"),
    ] = None,
    faces: Annotated[
        str | None, typer.Option(help="Where the recognizer's files lie now.", show_default="as trained")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Where the diffusion model lies now that it was trained on.",
            metavar="FOLDER",
            show_default="as trained",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=8, help="Restore in so many steps, at most as many as it was trained for.")
    ] = 1,
    page: Annotated[
        Path | None,
        typer.Option(help="Write a page: each face as it came, the references, restored.", metavar="FILE.html"),
    ] = None,
    page_data: Annotated[
        Path | None,
        typer.Option(
            help="Write the same as data; `likeness report` shows what lies in RUN/restored.", metavar="FILE.json"
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Where the networks of no-reference metrics lie, for --page and --page-data.",
            metavar="FOLDER",
            show_default="torch's cache",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be restored; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a row a photo as JSON and nothing else.")] = False,
) -> None:
    """Restore the faces in any photo, at the photo's own size, guided by photos of the same person.

    With references, the faces that match them, and a face alone in its photo that is too degraded to be recognized;
    without, every face. Exits with 1 where nothing could be restored.

    Example: likeness restore old.jpg --reference her1.jpg --reference her2.jpg --run dataset/run --out restored
    """
    from train.restore.log import select_earlier_entries
    from train.restore.output_paths import plan_outputs
    from train.run_folders import check_output_files

    check_output_files(page, page_data)
    if dry_run:
        todo, unreadable = plan_outputs(inputs, out)
        select_earlier_entries(out, todo, None)
        if as_json:
            rows_of_plan = [{"photo": str(path), "output": str(target)} for path, target in todo]
            typer.echo(json.dumps([*rows_of_plan, *({"photo": str(f), "reason": why} for f, why in unreadable)]))
            return
        for path, target in todo:
            typer.echo(make_printable(f"Would restore {path} into {target}."))
        for folder, reason in unreadable:
            typer.echo(make_printable(f"{folder}: {reason}"))
        return
    from manifests.runtime.progress import show_progress
    from train.restore.contact_sheet import ContactSheet, render_sheet
    from train.restore.restore import restore as restore_photos

    where, notices, faces_done = _box(box), list[str](), ContactSheet()
    watched = page is not None or page_data is not None
    with show_progress("photos", as_json) as progress:
        rows = restore_photos(
            inputs,
            reference or [],
            run,
            out,
            base_model=base_model,
            faces=faces,
            steps=steps,
            aligned=aligned,
            box=where,
            progress=progress,
            say=notices.append,
            on_face=faces_done.add if watched else lambda *_: None,
            limited=True,
        )
    if watched:
        from train.run_folders import write_output_text

        facts = faces_done.build(f"{run}", rows, weights)
        if page is not None:
            write_output_text(page, render_sheet(facts))
        if page_data is not None:
            write_output_text(page_data, json.dumps(facts))
    for sentence in notices:
        typer.echo(sentence, err=True)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
    else:
        for row in rows:
            if row.reason is not None:
                typer.echo(make_printable(f"{row.photo}: {row.reason}"))
        done = [row for row in rows if row.status == "ok"]
        count = sum(face.restored for row in done for face in row.faces)
        said = f"{format_count(count, 'face')} in {len(done)} of {format_count(len(rows), 'photo')}"
        typer.echo(f"{said} restored into {make_printable(out)}.")
    if not any(row.status == "ok" for row in rows):
        raise typer.Exit(1)


def _box(told: str | None) -> tuple[float, float, float, float] | None:
    from manifests.errors import BadInput

    if told is None:
        return None
    try:
        x0, y0, x1, y1 = (float(edge) for edge in told.split(","))
    except ValueError:
        raise BadInput(f"--box {told}: say x0,y0,x1,y1 in pixels, like --box 120,80,260,240.") from None
    return x0, y0, x1, y1
