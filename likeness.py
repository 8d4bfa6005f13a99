"""The front door: one command line, every stage behind it; a stage is imported when its command runs.

Exit codes: 0 done, 1 the job failed or a check found something, 2 what was offered cannot be used, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import curate.cli
import curate.import_cli
import degrade.cli
import manifests.cli
import train.benchmark.cli
import train.evaluation.cli
import train.fit.cli
import train.iterate.cli
from manifests.runtime.json_log import is_logging, log, log_as_json

if TYPE_CHECKING:
    from curate.summary import Summary
    from train.recipes import Recipe

RECIPE = "tiny"  # of `run` and `demo`: it needs no download
LOG_JSON = "--log-json"

app = typer.Typer(
    name="likeness",
    help="From a folder of photos to a reference-guided, one-step face restorer, every step recorded.",
    epilog="Exit codes: 0 done, 1 failed or a check found something, 2 unusable input, 130 interrupted. "
    "LIKENESS_DEBUG=1 shows tracebacks. docs/operations.md has more of both.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ledger = typer.Typer(help="Ask the ledger: what is there, where it came from, why it is not.", no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("likeness"))
        raise typer.Exit


@app.callback()
def _front(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    log_json: Annotated[
        bool,
        typer.Option(
            LOG_JSON, help="Write what is done as JSON, a line each, to standard error; it may also follow a command."
        ),
    ] = False,
) -> None:
    if log_json:
        from manifests.runtime.versions import code_version, tool_versions

        log_as_json(sys.stderr)
        log("started", command=sys.argv[1:], code_version=code_version(), tool_versions=tool_versions())


@app.command()
def run(
    photos: Annotated[list[Path], typer.Argument(help=curate.cli.PHOTOS_HELP, metavar="PHOTOS...")],
    out: Annotated[Path, typer.Option(help="The dataset's folder; made where it does not exist.", metavar="DATASET")],
    faces: Annotated[str, typer.Option(help=curate.cli.FACES_HELP)] = "auto",
    split_by: Annotated[str, typer.Option(help=curate.cli.SPLIT_HELP)] = "identity",
    pairs: Annotated[str, typer.Option(help=curate.cli.PAIRS_HELP)] = "random",
    training_run: Annotated[
        Path | None,
        typer.Option("--run", help="The training run's folder.", show_default="DATASET/run", metavar="RUN"),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images seen in training before it ends.", show_default="the recipe's")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=train.fit.cli.MAX_SEED, help="Of the frozen test set and of the training.")
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes; no result depends on it.", show_default="all cores")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON and nothing else.")] = False,
) -> None:
    """The whole main job: curate, degrade a frozen test set, train recipe tiny, evaluate, report. Again, it resumes.

    Other recipes need more than photos: `likeness train` has them.

    Example: likeness run ~/Photos --out dataset
    """
    from curate.check_options import check_options
    from curate.config import CurateConfig, PairRules, SplitRules
    from manifests.runtime.workers import count_cores
    from train.recipes import find_recipe
    from train.run_folders import check_run_folder

    told, folder, pair_rules = find_recipe(RECIPE), training_run or out / "run", PairRules(pairs)
    config = CurateConfig(faces=faces, split=SplitRules(policy=split_by), pairs=pair_rules)
    processes = count_cores() if workers is None else workers
    check_options(photos, out, config, processes)
    check_run_folder(folder)
    if dry_run:
        _say_plan(photos, out, folder, told, images, as_json)
        return
    from curate.pipeline import curate as curate_photos
    from degrade.frozen.dataset_sets import make_set, plan_set
    from manifests.report.build_report import build_report
    from manifests.runtime.progress import show_progress
    from train.evaluation.evaluate import EvaluationOptions, evaluate

    with show_progress("items", as_json) as progress:
        summary = curate_photos(photos, out, config, processes, progress)
        _say(as_json, curate.cli.told(summary))
        _refuse_untrainable(summary, out)
        options = (told.preset, "test", seed, told.size)
        total, made = plan_set(out, *options).images, 0

        def degraded(count: int) -> None:
            nonlocal made
            made += count
            progress("degrade", made, total)

        frozen = make_set(out, *options, workers=processes, progress=degraded)
    _say(as_json, f"frozen   {frozen.images} images in {frozen.folder}")
    ending = train.fit.cli.run_training(out, folder, RECIPE, images, seed, quiet=as_json)
    if ending.reason.startswith("SIG"):
        raise typer.Exit(130)
    judge = _judge_in_no_loss(folder)
    with show_progress("images", as_json) as progress:
        own = evaluate(folder, out, lq_set=Path(frozen.folder).name, progress=progress)
        judged = evaluate(folder, out, Path(frozen.folder).name, EvaluationOptions(judge=judge)) if judge else None
    page = build_report(out, [folder])
    if as_json:
        typer.echo(json.dumps({"own": own, "judged": judged, "report": str(page)}))
        return
    for result in filter(None, (own, judged)):
        train.evaluation.cli.print_evaluation(result, False)
    typer.echo(f"Report: {page}")


def _say_plan(
    photos: list[Path], out: Path, folder: Path, told: Recipe, images: int | None, as_json: bool = False
) -> None:
    end = told.images if images is None else images
    if as_json:
        plan = {"photos": [str(path) for path in photos], "dataset": str(out), "preset": told.preset, "size": told.size}
        typer.echo(json.dumps({**plan, "recipe": told.name, "images": end, "run": str(folder)}))
        return
    typer.echo(f"Would curate {len(photos)} paths into {out}, freeze {told.preset} at {told.size} px,")
    typer.echo(f"train {told.name} for {end} images into {folder}, evaluate it and write {out / 'report'}.")


def _judge_in_no_loss(run: Path) -> str | None:
    """dlib, where the restorer learned through the dataset's recognizer and dlib is installed; else None."""
    from importlib.util import find_spec

    learned = json.loads((run / "config.json").read_text(encoding="utf-8"))["identity_loss"]["on"]
    return "dlib" if learned and find_spec("dlib") and find_spec("face_recognition_models") else None


def _refuse_untrainable(summary: Summary, out: Path) -> None:
    from manifests.errors import BadInput

    missing = [name for name in ("train", "test") if not summary.pairs.get(name)]
    if missing:
        lacking = f"The {' and '.join(missing)} split has no target with a reference: add photos."
        why = " ".join(summary.notices) or lacking
        raise BadInput(f"{out} is curated and cannot be trained on. {why}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The dataset's folder.", metavar="DIR")] = Path("demo_dataset"),
    images: Annotated[int, typer.Option(min=1, help="Images seen in training before it ends.")] = 3200,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
) -> None:
    """The main job, offline, on variations of eight faces that come inside installed packages: a smoke run, no
    benchmark.

    Example: likeness demo --out demo_dataset
    """
    from curate.check_options import check_dataset_folder
    from curate.demo import NOTICE, write_demo_photos
    from degrade.sampling import make_generator
    from train.recipes import find_recipe

    typer.echo(NOTICE)
    check_dataset_folder([out / "photos"], out)
    if dry_run:
        _say_plan([out / "photos"], out, out / "run", find_recipe(RECIPE), images)
        return
    write_demo_photos(out / "photos", make_generator("demo"))
    run([out / "photos"], out, faces="dlib", images=images)


@app.command()
def doctor(
    faces: Annotated[str, typer.Option(help=curate.cli.FACES_HELP)] = "auto",
    at: Annotated[Path, typer.Option(help="Where datasets and runs will lie.", metavar="FOLDER")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Look at this machine: Python, packages, memory, cores, GPU, weights, face models, disk. Exits with 1 where
    something is wrong; nothing is downloaded.

    Example: likeness doctor
    """
    import dataclasses

    from doctor import WRONG, examine

    found = []
    for finding in examine(faces, at):
        found.append(finding)
        if not as_json:
            advice = f" -> {finding.advice}" if finding.advice else ""
            typer.echo(f"{finding.state:<5}  {finding.name:<20} {finding.found}{advice}")
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in found]))
    if any(finding.state == WRONG for finding in found):
        raise typer.Exit(1)


def _say(quiet: bool, sentence: str) -> None:
    if not quiet:
        typer.echo(sentence)


app.command()(curate.cli.curate)
app.command()(curate.cli.decide)
app.command()(degrade.cli.degrade)
app.command()(degrade.cli.verify)
app.command()(degrade.cli.preview)
app.command("train")(train.fit.cli.train)
app.command()(train.iterate.cli.iterate)
app.command()(train.fit.cli.restore)
app.command()(train.evaluation.cli.evaluate)
app.command()(train.evaluation.cli.counterfactuals)
app.command()(train.benchmark.cli.freeze)
app.command()(train.benchmark.cli.leaks)
app.command()(manifests.cli.report)
for command in (
    *(manifests.cli.show, manifests.cli.query, manifests.cli.check, manifests.cli.why),
    *(manifests.cli.export, manifests.cli.purge, manifests.cli.card, curate.cli.optout),
):
    ledger.command()(command)
ledger.command("import")(curate.import_cli.import_lists)
app.add_typer(ledger, name="manifest")


def main() -> None:
    """Run a command; whatever goes wrong becomes one sentence and an exit code."""
    # OpenMP's threads spin while they wait for each other; on cores that others use too, that made a training step four
    # times slower (8.1 s against 1.9 s), and on idle cores it gains nothing. Must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # an unset variable in a script: --out "" would make the current directory a dataset
    if any(not word or (word.startswith("--") and word.endswith("=")) for word in sys.argv[1:]):
        _fail("An argument is empty: name a path or a value.", 2)
    words = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    if LOG_JSON in words:  # typer takes what belongs to all commands only before the command's name
        sys.argv.remove(LOG_JSON)
        sys.argv.insert(1, LOG_JSON)
    began = time.monotonic()
    try:
        app()
    except KeyboardInterrupt:
        _fail("Interrupted; the same command again resumes.", 130)
    except SystemExit as ended:
        # typer catches Ctrl-C itself and ends without a word
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            _fail("Interrupted; the same command again resumes.", 130)
        log("finished", exit_code=ended.code or 0, seconds=round(time.monotonic() - began, 2))
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has left
        sys.exit(1)
    except Exception as error:
        if os.environ.get("LIKENESS_DEBUG"):
            raise
        from curate.faces.errors import FaceModelError
        from manifests.errors import LikenessError

        if isinstance(error, LikenessError | FaceModelError):
            _fail(str(error), error.exit_code)
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            then = " Make room, then run the same command again: it goes on where it was." if full else ""
            _fail(f"{error.filename or 'A file'}: {error.strerror or error}.{then}", 1)
        _fail(f"Something that should not happen: {type(error).__name__}: {error}. LIKENESS_DEBUG=1 shows where.", 1)


def _fail(sentence: str, code: int) -> NoReturn:
    if is_logging():
        log("failed", logging.ERROR, message=sentence, exit_code=code)
    else:  # names from the disk may hold bytes that are no UTF-8
        typer.echo(sentence.encode("utf-8", "backslashreplace").decode(), err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
