"""Defines the commands `evaluate` and `counterfactuals`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from manifests.ledger.paths import MAX_SEED
from manifests.runtime.flags import argument, flag
from train.models.config import MOST_STEPS

_MEASURING, _MODELS, _TABLES = "Measuring", "Models", "Pages and tables"
# The commands `evaluate` and `counterfactuals` share the following options.
Dataset = Annotated[Path, argument("DATASET|BENCH|PUBLISHED")]
LqSet = Annotated[str | None, flag("--set", default="the only set that fits the restorer")]
BenchmarkFolder = Annotated[Path | None, flag("--benchmark", "; the benchmark can be without images", default="none")]
Metrics = Annotated[str | None, flag("--metrics", default="the usual ones", panel=_MEASURING)]
Judge = Annotated[str | None, flag("--judge", default="the dataset's models", panel=_MEASURING)]
Seed = Annotated[
    int,
    flag(
        "--seed",
        "; the references and the bootstrap samples are drawn at random",
        low=0,
        high=MAX_SEED,
        panel=_MEASURING,
    ),
]
Steps = Annotated[int, flag("--steps", low=1, high=MOST_STEPS, panel=_MODELS)]
Faces = Annotated[str | None, flag("--faces", default="as in training", panel=_MODELS)]
BaseModel = Annotated[str | None, flag("--base-model", default="as in training", panel=_MODELS)]
Weights = Annotated[Path | None, flag("--weights", default="torch's cache", panel=_MODELS)]
LeaveOutSeen = Annotated[bool, flag("--leave-out-seen", panel=_MEASURING)]
Markdown = Annotated[Path | None, flag("--markdown", panel=_TABLES)]
Latex = Annotated[Path | None, flag("--latex", panel=_TABLES)]
DryRun = Annotated[bool, flag("--dry-run")]
AsJson = Annotated[bool, flag("--json")]


def evaluate(
    dataset: Dataset,
    run: Annotated[list[Path] | None, flag("--run", repeat=True)] = None,
    restored: Annotated[list[str] | None, flag("--restored", default="none", repeat=True)] = None,
    partial: Annotated[bool, flag("--partial")] = False,
    lq_set: LqSet = None,
    benchmark: BenchmarkFolder = None,
    out: Annotated[
        Path | None,
        flag("--out", "; only a comparison of several systems needs this option", metavar="FOLDER", default="none"),
    ] = None,
    max_references: Annotated[int, flag("--max-references", low=1, panel=_MEASURING)] = 4,
    metrics: Metrics = None,
    judge: Judge = None,
    fid_folder: Annotated[Path | None, flag("--fid-folder", default="none", panel=_MEASURING)] = None,
    fid_statistics: Annotated[Path | None, flag("--fid-statistics", default="none", panel=_MEASURING)] = None,
    fid_convention: Annotated[
        str | None, flag("--fid-convention", default="that of --fid-statistics, or torch-fidelity", panel=_MEASURING)
    ] = None,
    crop_border: Annotated[int, flag("--crop-border", low=0, panel=_MEASURING)] = 0,
    seed: Seed = 0,
    leave_out_seen: LeaveOutSeen = False,
    slices: Annotated[str | None, flag("--slices", default="none", panel=_MEASURING)] = None,
    steps: Steps = 1,
    faces: Faces = None,
    base_model: BaseModel = None,
    weights: Weights = None,
    page: Annotated[Path | None, flag("--page", panel=_TABLES)] = None,
    worst: Annotated[int, flag("--worst", low=1, panel=_TABLES)] = 60,
    keep_images: Annotated[bool, flag("--keep-images", panel=_TABLES)] = False,
    markdown: Markdown = None,
    latex: Latex = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Measure restorers and the LQ images themselves on a frozen test set, with 95% bootstrap intervals.

    The result of one run is written into RUN, as evaluation-SET.json. SET is the name of the set and six digits that
    depend on its images, so results of two sets lie side by side. A Parquet file of the same name has a row for each
    image and system. With several runs or with --restored, the files are FOLDER/comparison-SET.json and .parquet.

    Example: likeness evaluate dataset --run dataset/run --page evaluation.html
    """
    from manifests.errors import BadInput
    from train.run_folders import check_output_files

    runs, folders = run or [], name_folders(restored or [])
    if not runs and not folders:
        raise BadInput("Give a training run with --run, or a folder of restored images with --restored.")
    check_output_files(page, markdown, latex)
    set_name = _choose_set(dataset, lq_set, benchmark)
    is_comparison = len(runs) + len(folders) > 1 or bool(folders)
    if is_comparison and out is None:
        raise BadInput("A comparison of several systems needs a folder. Give a folder with --out.")
    if not is_comparison and out is not None:
        raise BadInput(f"The evaluation of one run is always written into {runs[0]}. Leave --out out.")
    if dry_run:
        stem = (out or Path()) / "comparison" if is_comparison else runs[0] / "evaluation"
        _print_plan(dataset, set_name, stem, as_json)
        return
    from manifests.runtime.progress import show_progress
    from train.evaluation.evaluate import compare
    from train.evaluation.evaluate import evaluate as evaluate_run
    from train.evaluation.options import DEFAULT_METRICS, EvaluationOptions
    from train.evaluation.results.result_images import PageImages

    options = EvaluationOptions(
        references=max_references,
        metrics=_parse_metrics(metrics, DEFAULT_METRICS),
        judge=judge,
        faces=faces,
        base_model=base_model,
        steps=steps,
        weights=weights,
        fid_folder=fid_folder,
        fid_statistics=fid_statistics,
        fid_convention=fid_convention,
        crop_border=crop_border,
        seed=seed,
        leave_out_seen=leave_out_seen,
        slices=_parse_slices(slices),
        partial=partial,
    )
    pictures, notices = PageImages() if page is not None else None, list[str]()
    with show_progress("images", as_json) as progress:
        if is_comparison:
            assert out is not None
            result = compare(
                runs, folders, dataset, out, set_name, options, progress, pictures, keep_images, notices.append
            )
        else:
            result = evaluate_run(runs[0], dataset, set_name, options, progress, pictures, keep_images, notices.append)
    for notice in notices:
        typer.echo(notice, err=True)
    _write_tables(result, markdown, latex)
    if page is not None and pictures is not None:
        from train.evaluation.presentation.html_page import render_page
        from train.run_folders import write_output_text

        write_output_text(page, render_page(result, pictures, worst))
    print_evaluation(result, as_json)
    if not as_json:
        typer.echo(f"The result is in {(out if out is not None else runs[0]) / result['file']}.")


def counterfactuals(
    dataset: Dataset,
    run: Annotated[Path, flag("--run")],
    lq_set: LqSet = None,
    benchmark: BenchmarkFolder = None,
    max_references: Annotated[
        int,
        flag(
            "--max-references",
            "; each system with wrong or changed references gets this number",
            low=1,
            high=8,
            panel=_MEASURING,
        ),
    ] = 4,
    metrics: Metrics = None,
    judge: Judge = None,
    seed: Seed = 0,
    leave_out_seen: LeaveOutSeen = False,
    steps: Steps = 1,
    faces: Faces = None,
    base_model: BaseModel = None,
    weights: Weights = None,
    plot: Annotated[Path | None, flag("--plot", panel=_TABLES)] = None,
    markdown: Markdown = None,
    latex: Latex = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Test whether a restorer uses its references.

    The command restores each image with 0 to 8 references, and with wrong or changed references. Wrong references show
    another person. Changed references are reordered, repeated or blurred, show another pose, or are the references
    least like the target. The result is RUN/counterfactuals-SET.json, and a Parquet file of the same name.

    Example: likeness counterfactuals dataset --run dataset/run --judge dlib --plot curve.svg
    """
    from manifests.errors import BadInput
    from train.run_folders import check_output_files

    check_output_files(plot, markdown, latex)
    set_name = _choose_set(dataset, lq_set, benchmark)
    if dry_run:
        _print_plan(dataset, set_name, run / "counterfactuals", as_json)
        return
    from manifests.runtime.progress import show_progress
    from train.evaluation.counterfactuals import DEFAULT_METRICS, draw_metric_curve
    from train.evaluation.counterfactuals import counterfactuals as measure_counterfactuals
    from train.evaluation.options import EvaluationOptions

    options = EvaluationOptions(
        references=max_references,
        metrics=_parse_metrics(metrics, DEFAULT_METRICS),
        judge=judge,
        faces=faces,
        base_model=base_model,
        steps=steps,
        weights=weights,
        seed=seed,
        leave_out_seen=leave_out_seen,
    )
    if plot is not None and "id_target" not in options.metrics:
        raise BadInput("--plot draws the metric id_target, which --metrics leaves out. Add id_target to --metrics.")
    notices: list[str] = []
    with show_progress("images", as_json) as progress:
        result = measure_counterfactuals(run, dataset, set_name, options, progress, notices.append)
    for notice in notices:
        typer.echo(notice, err=True)
    _write_tables(result, markdown, latex)
    if plot is not None:
        from train.run_folders import write_output_text

        write_output_text(plot, draw_metric_curve(result))
    print_evaluation(result, as_json)
    if not as_json:
        counts = ", ".join(
            f"{count} of {result['images']} have {k} or more" for k, count in result["have"].items() if k != "0"
        )
        typer.echo(
            f"Images by number of references: {counts}. If an image has fewer references than a system can use, the "
            "system uses all references of the image."
        )
        typer.echo(
            f"A different order of the references changes a pixel by at most {result['largest_change_by_order']}/255."
        )
        typer.echo(f"The result is in {run / result['file']}.")


def print_evaluation(result: dict[str, Any], as_json: bool) -> None:
    """Prints the tables of an evaluation, or its JSON."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    from train.evaluation.presentation.text_tables import print_result

    print_result(result)


def _choose_set(dataset: Path, lq_set: str | None, benchmark: Path | None) -> str | None:
    """Returns the name of a frozen set, or the path of a benchmark, or None if the user gave no set and no benchmark.

    Raises BadInput if the user gave both a set and a benchmark, or if `dataset` is not a folder.
    """
    from manifests.errors import BadInput

    if lq_set is not None and benchmark is not None:
        raise BadInput("--set and --benchmark cannot be used together. Give a set of the dataset, or a benchmark.")
    if not dataset.is_dir():
        raise BadInput(f"{dataset} is not a folder. Give a dataset or a benchmark.")
    return lq_set if benchmark is None else str(benchmark)


def _parse_metrics(text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return default
    if text == "all":
        from train.metrics.registry import METRICS

        return tuple(METRICS)
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip())) or default


def name_folders(arguments: list[str]) -> dict[str, Path]:
    """Returns name -> folder for arguments of the form FOLDER or NAME=FOLDER."""
    from manifests.errors import BadInput
    from train.run_folders import split_name

    folders: dict[str, Path] = {}
    for text in arguments:
        name, folder = split_name(text)
        name = folder.resolve().name if name is None else name
        if not name or "/" in name or name == "lq":
            raise BadInput(
                f"The tables cannot use the name '{name}' for {folder}. Give another name with NAME=FOLDER. NAME has "
                "no slash and is not lq."
            )
        if name in folders:
            raise BadInput(f"Two of the compared folders have the name {name}: give another name with NAME=FOLDER.")
        folders[name] = folder
    return folders


def _parse_slices(text: str | None) -> tuple[str, ...]:
    if text == "all":
        from train.evaluation.slices.columns import COLUMNS

        return tuple(COLUMNS)
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def _write_tables(result: dict[str, Any], markdown: Path | None, latex: Path | None) -> None:
    from train.evaluation.presentation.text_tables import render_latex, render_markdown
    from train.run_folders import write_output_text

    for path, render in ((markdown, render_markdown), (latex, render_latex)):
        if path is not None:
            write_output_text(path, render(result))


def _print_plan(dataset: Path, lq_set: str | None, stem: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"dataset": str(dataset), "lq_set": lq_set, "writes": f"{stem}-*.json"}))
        return
    name = lq_set or "the frozen test set of the restorer's size"
    typer.echo(
        f"Would measure {name} of {dataset} and write a JSON file and a Parquet file into {stem.parent}. Their names "
        f"begin with {stem.name} and the name of the set."
    )
