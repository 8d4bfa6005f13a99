"""The command line `likeness`: defines the main commands, and adds the commands of the folders.

A command imports its stages when it runs, so that the help and the errors of arguments do not wait for torch.
manifests/exit_codes.py turns errors into exit codes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

OUR_FOLDER = Path(__file__).absolute().parent
OUR_NAMES = {"curate", "degrade", "doctor", "likeness", "manifests", "train"}


class _OurModules:
    """Finds the modules of OUR_NAMES only in the folder of this file."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(OUR_FOLDER)]) if name in OUR_NAMES else None


def _find_our_modules_first() -> None:
    """Import the modules of Likeness even if the current folder contains a train.py, a degrade/ or a doctor.py.

    The commands `python -m likeness`, accelerate and torchrun put the current folder first on sys.path. A spawned
    worker process runs this file again before it imports other files of Likeness.
    """
    if not any(getattr(finder, "__qualname__", "") == _OurModules.__qualname__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _OurModules)
    with contextlib.suppress(FileNotFoundError):  # the current folder may have been deleted
        if __name__ == "__main__" and sys.path[0] == str(Path.cwd()) != str(OUR_FOLDER):
            del sys.path[0]


_find_our_modules_first()

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import curate.cli
import curate.decisions.cli
import curate.import_cli
import curate.review.cli
import degrade.cli
import manifests.cli
import manifests.export.cli
import manifests.privacy.cli
import train.benchmark.cli
import train.benchmark.imported.cli
import train.evaluation.cli
import train.evaluation.comparison.cli
import train.evaluation.statistics.cli
import train.export.cli
import train.fit.cli
import train.iterate.cli
import train.restore.cli
from manifests.exit_codes import EXIT_CODES, INTERRUPTED, exit_with_message, run_with_exit_code
from manifests.ledger.paths import MAX_SEED
from manifests.runtime.flags import argument, flag
from manifests.runtime.json_log import log, log_as_json
from manifests.runtime.text import format_count
from manifests.stores.addresses import hide_in_word
from manifests.stores.store_path import parse_path

if TYPE_CHECKING:
    from curate.run.summary import Summary
    from train.recipes.recipes import Recipe

RECIPE = "tiny"  # the recipe of `run` and `demo`; a training with this recipe needs no download
LOG_JSON = "--log-json"


class _Commands(TyperGroup):
    """Removes the secrets of addresses from Typer's own errors, for example about an argument too many."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(text := getattr(error, "message", None), str):
                for word in sys.argv[1:]:
                    text = text.replace(word, hide_in_word(word))
                error.message = text  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    name="likeness",
    cls=_Commands,
    help="Train a one-step face restorer with references from a folder of photos, and record every step.",
    epilog=f"Exit codes: {EXIT_CODES}. Set LIKENESS_DEBUG=1 to see tracebacks. docs/commands.md lists all commands and "
    "options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
manifest = typer.Typer(help="Read, check, export and clean the ledger of a dataset.", no_args_is_help=True)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(version("likeness"))
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    log_json: Annotated[
        bool,
        typer.Option(
            LOG_JSON,
            metavar="",
            help="Write the log as JSON lines to standard error. The option may also follow the name of the command.",
        ),
    ] = False,
) -> None:
    if log_json:
        from manifests.runtime.versions import code_version, tool_versions

        log_as_json(sys.stderr)
        log(
            "started",
            command=[hide_in_word(word) for word in sys.argv[1:]],
            code_version=code_version(),
            tool_versions=tool_versions(),
        )


def run(
    photos: Annotated[list[Path], argument("PHOTOS...", curate.cli.ARCHIVES, parser=parse_path)],
    out: Annotated[Path, flag("--out", ": the folder of a new or an existing dataset", metavar="DATASET")],
    faces: Annotated[str, flag("--faces", curate.cli.ONE_RECOGNIZER)] = "auto",
    filters: Annotated[str, flag("--filters")] = "default",
    split_by: Annotated[str, flag("--split-by")] = "identity",
    pairs: Annotated[str, flag("--pairs", curate.cli.WINDOW)] = "random",
    training_run: Annotated[
        Path | None, flag("--run", ", which may be new or unfinished", default="DATASET/run")
    ] = None,
    images: Annotated[int | None, flag("--images", default="the number in the recipe", low=1)] = None,
    seed: Annotated[int, flag("--seed", " of the test set and of the training", low=0, high=MAX_SEED)] = 0,
    workers: Annotated[int | None, flag("--workers", default="all cores")] = None,
    device: Annotated[str, flag("--device")] = "auto",
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Run all stages: curate photos, freeze a test set, train and evaluate the recipe tiny, write the report.

    Run the same command again to resume the job. Use `likeness train` for other recipes, because other recipes need
    more files or options.

    Example: likeness run ~/Photos --out dataset
    """
    from curate.photos.walk import check_photo_paths

    # Checked here, so that the error about a wrong path does not wait for the import of duckdb and OpenCV
    check_photo_paths(photos)
    from curate.config import CurateConfig, PairRules, SplitRules
    from curate.detection.filter_files import load_filters
    from curate.run.check_options import check_options
    from manifests.runtime.workers import count_cores
    from train.recipes.recipes import find_recipe
    from train.run_folders import check_run_folder

    recipe, folder = find_recipe(RECIPE), training_run or out / "run"
    screen, split = load_filters(filters), SplitRules(policy=split_by)
    config = CurateConfig(faces=faces, screen=screen, split=split, pairs=PairRules(pairs))
    processes = count_cores() if workers is None else workers
    check_options(photos, out, config, processes, device)
    check_run_folder(folder)
    if dry_run:
        _print_plan(photos, out, folder, recipe, images, as_json)
        return
    from curate.run.pipeline import curate as curate_photos
    from degrade.frozen.dataset_sets import make_set, plan_set
    from manifests.report.build_report import build_report
    from manifests.runtime.progress import show_progress
    from train.evaluation.evaluate import evaluate
    from train.evaluation.options import EvaluationOptions

    def say(sentence: str) -> None:
        if not as_json:
            typer.echo(sentence)

    with show_progress("items", as_json) as progress:
        summary = curate_photos(photos, out, config, processes, progress, device=device)
        say(curate.cli.describe_summary(summary, out))
        _check_trainable(summary, out, as_json)
        options = (recipe.preset, "test", seed, recipe.size)
        total, done = plan_set(out, *options).images, 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            progress("degrade", done, total)

        frozen_set = make_set(out, *options, workers=processes, progress=advance)
    say(f"frozen   {frozen_set.images} images in {frozen_set.folder}.{degrade.cli.describe_poor_targets(frozen_set)}")
    ending = train.fit.cli.run_training(out, folder, RECIPE, images, seed, quiet=as_json)
    if ending.reason.startswith("SIG"):
        raise typer.Exit(INTERRUPTED)
    set_name, judge, notices = Path(frozen_set.folder).name, _find_judge(folder), list[str]()
    with show_progress("images", as_json) as progress:
        own = evaluate(folder, out, set_name, progress=progress, say=notices.append)
        judged = evaluate(folder, out, set_name, EvaluationOptions(judge=judge)) if judge else None
    for notice in notices:
        typer.echo(notice, err=True)
    page = build_report(out, [folder])
    if as_json:
        typer.echo(json.dumps({"own": own, "judged": judged, "report": str(page)}))
        return
    for result in filter(None, (own, judged)):
        train.evaluation.cli.print_evaluation(result, False)
    typer.echo(f"Report: {page}")


def _print_plan(
    photos: list[Path], dataset: Path, folder: Path, recipe: Recipe, images: int | None, as_json: bool = False
) -> None:
    length = recipe.images if images is None else images
    if as_json:
        facts = {"photos": [str(path) for path in photos], "dataset": str(dataset), "run": str(folder)}
        chosen = {"recipe": recipe.name, "preset": recipe.preset, "size": recipe.size, "images": length}
        typer.echo(json.dumps({**facts, **chosen}))
        return
    typer.echo(f"The command would curate {format_count(len(photos), 'path')} into {dataset},")
    typer.echo(f"freeze {recipe.preset} at {recipe.size} px, train {recipe.name} for {length} images into {folder},")
    typer.echo(f"evaluate the run, and write {dataset / 'report'}.")


def _find_judge(run: Path) -> str | None:
    """Returns "dlib" if dlib is installed and the run's loss used the dataset's recognizer. Otherwise returns None.

    A recognizer overrates a restorer whose loss used this recognizer. `run` therefore measures the identity with the
    dataset's recognizer and again with dlib.
    """
    from importlib.util import find_spec

    has_loss = json.loads((run / "config.json").read_text(encoding="utf-8"))["identity_loss"]["on"]
    return "dlib" if has_loss and find_spec("dlib") and find_spec("face_recognition_models") else None


def _check_trainable(summary: Summary, dataset: Path, with_notices: bool) -> None:
    """Raise BadInput if the train or the test split has no target with a reference.

    With `with_notices`, the message also contains the notices of the curation.
    """
    from curate.face_filters import OUTSIDE_PHOTO
    from manifests.errors import BadInput

    empty = [split for split in ("train", "test") if not summary.pairs.get(split)]
    if empty:
        reason = (
            f"The split{'s' if len(empty) > 1 else ''} {' and '.join(empty)} {'have' if len(empty) > 1 else 'has'} "
        )
        reason += "no target with a reference."
        reason = " ".join([reason, *(summary.notices if with_notices else ())])
        advice = "Add photos."
        if "test" in empty and summary.unpaired.get(OUTSIDE_PHOTO):
            advice = "Give --filters keep-outside to test on faces that lie partly outside their photos, or add photos."
        raise BadInput(f"{dataset} is curated, but cannot be used for a training. {reason} {advice}")


def demo(
    out: Annotated[Path, flag("--out", ": the folder of the dataset", metavar="DATASET")] = Path("demo_dataset"),
    images: Annotated[int, flag("--images", low=1)] = 2400,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
) -> None:
    """Run all stages on example photos, to test every stage. No internet connection is needed.

    The photos are variations of eight faces in installed packages.

    The figures of the demo are not results, because all photos of a person are variations of one picture.

    Example: likeness demo --out demo_dataset
    """
    from curate.demo import NOTICE, write_demo_photos
    from curate.run.check_options import check_dataset_folder
    from degrade.sampling import make_generator
    from train.recipes.recipes import find_recipe

    typer.echo(NOTICE)
    photos = out / "photos"
    check_dataset_folder([photos], out)
    if dry_run:
        _print_plan([photos], out, out / "run", find_recipe(RECIPE), images)
        return
    write_demo_photos(photos, make_generator("demo"))
    run([photos], out, faces="dlib", images=images)


def doctor(
    faces: Annotated[str, flag("--faces")] = "auto",
    at: Annotated[Path, flag("--at")] = Path(),
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Examine this machine: Python, packages, memory, cores, GPU, weights, face models and disk.

    The command downloads nothing.

    The exit code is 1 if a check has the result `wrong`, and 0 otherwise.

    Example: likeness doctor
    """
    import dataclasses

    from doctor import WRONG, examine

    findings = []
    for finding in examine(faces, at):
        findings.append(finding)
        if not as_json:
            advice = f" -> {finding.advice}" if finding.advice else ""
            typer.echo(f"{finding.state:<5}  {finding.name:<20} {finding.result}{advice}")
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    if any(finding.state == WRONG for finding in findings):
        raise typer.Exit(1)


_MAIN_JOB, _DATA, _TRAINING, _MEASURING = "Main job", "Datasets", "Training and restoring", "Measuring"
COMMANDS: dict[str, list[Callable[..., None]]] = {  # maps the title of a group in the help to the commands of the group
    _MAIN_JOB: [run, demo, doctor],
    _DATA: [curate.cli.curate, curate.review.cli.review, curate.decisions.cli.decide, manifests.cli.report],
    "Degradation": [degrade.cli.degrade, degrade.cli.verify, degrade.cli.preview],
    _TRAINING: [train.fit.cli.train, train.iterate.cli.iterate, train.restore.cli.restore, train.export.cli.export],
    _MEASURING: [
        train.evaluation.cli.evaluate,
        train.evaluation.cli.counterfactuals,
        train.evaluation.comparison.cli.compare,
        train.evaluation.statistics.cli.fid_statistics,
        train.benchmark.cli.freeze,
        train.benchmark.imported.cli.import_benchmark,
        train.benchmark.cli.leaks,
    ],
}


def _read_help(command: Callable[..., None]) -> str:
    """Returns the docstring of a command with one line for each paragraph, so that the help fits any terminal.

    A paragraph in which every line ends with a full stop is a list, and keeps its lines.
    """
    paragraphs = [part.splitlines() for part in inspect.cleandoc(command.__doc__ or "").split("\n\n")]
    return "\n\n".join(("\n" if all(line.endswith(".") for line in lines) else " ").join(lines) for lines in paragraphs)


for title, commands in COMMANDS.items():
    for command in commands:
        name = command.__name__.replace("_", "-")
        app.command(name, rich_help_panel=title, help=_read_help(command))(command)
for command in (
    *(manifests.cli.show, manifests.cli.query, manifests.cli.check, manifests.cli.why, manifests.cli.card),
    *(manifests.export.cli.export, manifests.privacy.cli.purge, curate.cli.optout),
):
    manifest.command(command.__name__, help=_read_help(command))(command)
manifest.command("import", help=_read_help(curate.import_cli.import_lists))(curate.import_cli.import_lists)
app.add_typer(manifest, name="manifest", rich_help_panel=_DATA)


def main() -> None:
    """Run a command. Every error becomes one sentence and an exit code."""
    # By default, OpenMP's threads use their cores while they wait for each other. While other processes used the same
    # cores, a training step took 8.1 s with the default, and 1.9 s with PASSIVE. On idle cores, the default was not
    # faster than PASSIVE. torch reads the variable when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # An empty argument is refused. For example, a script passes --out "" if its variable is not set. The command would
    # then make the current directory a dataset.
    if any(not word or (word.startswith("--") and word.endswith("=")) for word in sys.argv[1:]):
        exit_with_message("An argument is empty. Name a path or a value.", 2)
    words = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    if LOG_JSON in words:  # Typer accepts this option only before the name of the command
        sys.argv.remove(LOG_JSON)
        sys.argv.insert(1, LOG_JSON)
    run_with_exit_code(app)


if __name__ == "__main__":
    main()
