"""The commands of evaluation: evaluate, counterfactuals. likeness.py mounts them and turns errors into a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from manifests.ledger.paths import MAX_SEED

Dataset = Annotated[
    Path,
    typer.Argument(help="The dataset with the frozen set, or a benchmark of `likeness freeze`.", metavar="DATASET"),
]
BenchmarkFolder = Annotated[
    Path | None,
    typer.Option(
        "--benchmark", help="A benchmark without pictures, of which DATASET holds the photos.", metavar="BENCH"
    ),
]
LqSet = Annotated[
    str | None, typer.Option("--set", help="Name of the frozen set.", show_default="the test set of the right size")
]
Judge = Annotated[
    str | None,
    typer.Option(help="Face models in no loss, like dlib, to measure identity by.", show_default="the dataset's own"),
]
Faces = Annotated[str | None, typer.Option(help="Where the recognizer's files lie now.", show_default="as trained")]
BaseModel = Annotated[
    str | None,
    typer.Option(
        help="Where the diffusion model lies now that it was trained on.", metavar="FOLDER", show_default="as trained"
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Where the metrics' networks lie.", metavar="FOLDER", show_default="torch's cache"),
]
Steps = Annotated[
    int, typer.Option(min=1, max=8, help="Restore in so many steps, at most as many as it was trained for.")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Draws the references and the bootstrap.")]


def evaluate(
    dataset: Dataset,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="A training run; may be given again.", metavar="RUN")
    ] = None,
    restored: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of somebody's restored images, called as those of the set; may be given again.",
            metavar="FOLDER",
            show_default="none",
        ),
    ] = None,
    lq_set: LqSet = None,
    benchmark: BenchmarkFolder = None,
    max_references: Annotated[int, typer.Option(help="At most so many references an image.", min=1)] = 4,
    metrics: Annotated[
        str | None,
        typer.Option(help="Names with commas, or all; docs/evaluate.md lists them.", show_default="the usual ones"),
    ] = None,
    judge: Judge = None,
    faces: Faces = None,
    base_model: BaseModel = None,
    steps: Steps = 1,
    weights: Weights = None,
    fid_folder: Annotated[
        Path | None, typer.Option(help="Pictures that metric fid_folder compares with.", show_default="none")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where a comparison goes: of several runs, or with --restored.", metavar="FOLDER"),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page with the pictures, worst first.", metavar="FILE.html")
    ] = None,
    worst: Annotated[int, typer.Option(help="At most so many images on the page.", min=1)] = 60,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.", metavar="FILE")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables for a paper.", metavar="FILE")] = None,
    seed: Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> None:
    """Measure restorers on a frozen test set, beside the LQ input itself, with 95% bootstrap intervals.

    Writes RUN/evaluation.json and RUN/evaluation.parquet, a row an image and a system (evaluation-judge.* with
    --judge); of several runs, or of folders that somebody else restored the set into, FOLDER/comparison.*.

    Example: likeness evaluate dataset --run dataset/run --page evaluation.html
    """
    from manifests.errors import BadInput
    from train.run_folders import check_output_files, name_result_file

    mine, theirs = runs or [], restored or []
    if not mine and not theirs:
        raise BadInput("Name a training run with --run, or a folder of restored images with --restored.")
    check_output_files(page, markdown, latex)
    set_name = _set_or_benchmark(lq_set, benchmark)
    several = len(mine) + len(theirs) > 1 or bool(theirs)
    if several and out is None:
        raise BadInput("A comparison needs a place: say --out FOLDER.")
    if not several and out is not None:
        raise BadInput("--out is for comparisons; one run's evaluation goes into its own folder.")
    if dry_run:
        stem = (out or Path()) / "comparison" if several else mine[0] / name_result_file("evaluation", judge, steps)
        _say_plan(dataset, set_name, stem, as_json)
        return
    from manifests.runtime.progress import show_progress
    from train.evaluation.evaluate import DEFAULT_METRICS, EvaluationOptions, PagePictures
    from train.evaluation.evaluate import compare as compare_all
    from train.evaluation.evaluate import evaluate as measured

    options = EvaluationOptions(
        references=max_references,
        metrics=_metrics(metrics, DEFAULT_METRICS),
        judge=judge,
        faces=faces,
        base_model=base_model,
        steps=steps,
        weights=weights,
        fid_folder=fid_folder,
        seed=seed,
    )
    seen = PagePictures() if page is not None else None
    with show_progress("images", as_json) as progress:
        if several:
            assert out is not None
            result = compare_all(mine, theirs, dataset, out, set_name, options, progress, seen)
        else:
            result = measured(mine[0], dataset, set_name, options, progress, seen)
    _write(result, markdown, latex)
    if page is not None and seen is not None:
        from train.evaluation.html_page import render_page as built
        from train.run_folders import write_output_text

        write_output_text(page, built(result, seen, worst))
    print_evaluation(result, as_json)


def counterfactuals(
    dataset: Dataset,
    run: Annotated[Path, typer.Option(help="A training run.", metavar="RUN")],
    lq_set: LqSet = None,
    benchmark: BenchmarkFolder = None,
    max_references: Annotated[int, typer.Option(help="So many references are shown wrongly.", min=1, max=8)] = 4,
    metrics: Annotated[
        str | None,
        typer.Option(help="Names with commas, or all; docs/evaluate.md lists them.", show_default="the usual ones"),
    ] = None,
    judge: Judge = None,
    faces: Faces = None,
    base_model: BaseModel = None,
    steps: Steps = 1,
    weights: Weights = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw identity to the target into this file.", metavar="FILE.svg")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.", metavar="FILE")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables for a paper.", metavar="FILE")] = None,
    seed: Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> None:
    """Does it use its references? Up to eight of them, and wrong, shuffled, repeated, blurred, turned and unlike ones.

    Writes RUN/counterfactuals.json and .parquet (counterfactuals-judge.* with --judge).

    Example: likeness counterfactuals dataset --run dataset/run --judge dlib --plot curve.svg
    """
    from train.run_folders import check_output_files, name_result_file

    check_output_files(plot, markdown, latex)
    set_name = _set_or_benchmark(lq_set, benchmark)
    if dry_run:
        _say_plan(dataset, set_name, run / name_result_file("counterfactuals", judge, steps), as_json)
        return
    from manifests.runtime.progress import show_progress
    from train.evaluation.counterfactuals import DEFAULT_METRICS
    from train.evaluation.counterfactuals import counterfactuals as measured
    from train.evaluation.counterfactuals import draw_metric_curve as drawn
    from train.evaluation.evaluate import EvaluationOptions

    options = EvaluationOptions(
        references=max_references,
        metrics=_metrics(metrics, DEFAULT_METRICS),
        judge=judge,
        faces=faces,
        base_model=base_model,
        steps=steps,
        weights=weights,
        seed=seed,
    )
    with show_progress("images", as_json) as progress:
        result = measured(run, dataset, set_name, options, progress)
    _write(result, markdown, latex)
    if plot is not None:
        from manifests.errors import BadInput
        from train.run_folders import write_output_text

        if "id_target" not in result["metrics"]:
            raise BadInput("--plot draws identity to the target: name id_target in --metrics.")
        write_output_text(plot, drawn(result))
    print_evaluation(result, as_json)
    if not as_json:
        have = ", ".join(f"{count} of {result['images']} have {k}" for k, count in result["have"].items() if k != "0")
        typer.echo(f"References: {have}; an image with fewer is shown all it has.")
        typer.echo(f"Another order changes a pixel by at most {result['largest_change_by_order']}/255.")


def print_evaluation(result: dict[str, Any], as_json: bool) -> None:
    """The tables of an evaluation, or its JSON."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    from train.evaluation.text_tables import print_result

    print_result(result)


def _set_or_benchmark(lq_set: str | None, benchmark: Path | None) -> str | None:
    """The name of a frozen set, or the path of a benchmark that has no pictures of its own."""
    from manifests.errors import BadInput

    if lq_set is not None and benchmark is not None:
        raise BadInput("--set and --benchmark exclude each other: name a set of the dataset, or a benchmark.")
    return lq_set if benchmark is None else str(benchmark)


def _metrics(told: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    if told is None:
        return usual
    if told == "all":
        from train.metrics.registry import METRICS

        return tuple(METRICS)
    return tuple(dict.fromkeys(name.strip() for name in told.split(",") if name.strip())) or usual


def _write(result: dict[str, Any], markdown: Path | None, latex: Path | None) -> None:
    from train.evaluation import text_tables as tables
    from train.run_folders import write_output_text

    for path, text in ((markdown, tables.render_markdown), (latex, tables.render_latex)):
        if path is not None:
            write_output_text(path, text(result))


def _say_plan(dataset: Path, lq_set: str | None, stem: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"dataset": str(dataset), "lq_set": lq_set, "writes": f"{stem}.json"}))
        return
    name = lq_set or "the frozen test set of the restorer's size"
    typer.echo(f"Would measure {name} of {dataset} and write {stem}.json and {stem.name}.parquet.")
