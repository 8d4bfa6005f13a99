"""Defines the command `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from manifests.ledger.paths import MAX_SEED
from manifests.runtime.flags import argument, flag

_TABLES = "Pages and tables"


def compare(
    results: Annotated[list[str], argument("RESULT...")],
    all_systems: Annotated[bool, flag("--all-systems")] = False,
    seed: Annotated[
        int, flag("--seed", "; bootstrap samples and sign flips are drawn at random", low=0, high=MAX_SEED)
    ] = 0,
    page: Annotated[Path | None, flag("--page", panel=_TABLES)] = None,
    worst: Annotated[int, flag("--worst", low=1, panel=_TABLES)] = 60,
    plot: Annotated[Path | None, flag("--plot", "; here, identity against quality", panel=_TABLES)] = None,
    markdown: Annotated[Path | None, flag("--markdown", panel=_TABLES)] = None,
    latex: Annotated[Path | None, flag("--latex", panel=_TABLES)] = None,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Compare results of `likeness evaluate` on one set, with paired tests.

    RESULT is a JSON file that `likeness evaluate` wrote, or NAME=FILE to give the system a name. Every system is
    compared with the first one, image by image. Results of different sets are refused. A star marks a difference only
    if it is significant after a correction for all tests of the table.

    Example: likeness compare RUN/evaluation-SET.json OTHER/evaluation-SET.json --latex table.tex --plot pareto.svg
    """
    from train.evaluation.comparison.compare_results import compare_results
    from train.evaluation.comparison.pareto import choose_axes, draw_pareto
    from train.evaluation.comparison.read_results import read_results
    from train.evaluation.presentation.text_tables import print_result, render_latex, render_markdown
    from train.run_folders import check_output_files, write_output_text

    check_output_files(page, plot, markdown, latex)
    loaded = read_results(results, all_systems)
    if page is not None:
        from train.evaluation.comparison.page_images import check_kept_images

        check_kept_images(loaded)
    comparison = compare_results(loaded, seed)
    result = comparison.result
    if plot is not None:
        choose_axes(result["metrics"])
    for path, render in ((markdown, render_markdown), (latex, render_latex), (plot, draw_pareto)):
        if path is not None:
            write_output_text(path, render(result))
    if page is not None:
        from train.evaluation.comparison.page_images import read_page_images
        from train.evaluation.presentation.html_page import render_page

        write_output_text(page, render_page(result, read_page_images(loaded, comparison), worst))
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_result(result)
