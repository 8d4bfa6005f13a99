"""Print the tables of a result in a terminal, or render them as Markdown or LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from manifests.report.result_notices import IPS, list_counterweights, make_notices
from manifests.report.result_tables import (
    Result,
    describe_source,
    make_difference_headings,
    make_difference_rows,
    make_headings,
    make_slice_tables,
    make_system_rows,
    make_title,
)


def print_result(result: Result) -> None:
    """Prints the tables and notices of a result. Values have three digits. Metrics that do not fit into the terminal
    are left out. IPS alone rewards copying, so it is shown only together with the metrics that count against copying
    (`list_counterweights`). If one of these metrics does not fit, IPS is left out too.
    """
    console = Console()
    room = max(3, (console.width - 16) // 12)  # metrics per table
    names = list(result["metrics"])[:room]
    if any(name in result["metrics"] and name not in names for name in list_counterweights(result)):
        names = [name for name in names if name != IPS]
    short = {**result, "metrics": {name: result["metrics"][name] for name in names}}
    parts: list[Any] = [_make_table(make_title(result), "system", make_headings(short), make_system_rows(short, 3))]
    if result["differences"]:
        rows = make_difference_rows(short, 3)
        parts.append(_make_table("Paired differences", "", make_difference_headings(short), rows))
    for title, headings, rows in make_slice_tables(short, 3):
        parts.append(_make_table(title, headings[0], headings[1:], rows))
    notices = make_notices(result)
    if others := [metric["title"] for name, metric in result["metrics"].items() if name not in names]:
        notices.append(
            f"This terminal is too narrow for {', '.join(others)}: write all metrics into a file with --markdown FILE."
        )
    console.print(Group(*parts, *(Text(notice) for notice in notices)))


def _make_table(title: str, first: str, headings: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=False)
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for cells in rows:
        # To save room, 0.91 becomes .91, and the interval is on its own line.
        short = (re.sub(r"(?<!\d)0\.", ".", cell).replace(" [", "\n[") for cell in cells[1:])
        table.add_row(cells[0], *short)
    return table


def render_markdown(result: Result) -> str:
    """Returns the tables, the notices and the conventions of a result as GitHub's Markdown."""

    def render(headings: list[str], rows: list[list[str]]) -> list[str]:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
        return [f"| {' | '.join(cells[0])} |", f"|---|{'---:|' * (len(headings) - 1)}"] + [
            f"| {' | '.join(row)} |" for row in cells[1:]
        ]

    parts = [f"**{make_title(result)}**", "", *render(["", *make_headings(result)], make_system_rows(result))]
    if result["differences"]:
        headings = ["paired difference", *make_difference_headings(result)]
        parts += ["", *render(headings, make_difference_rows(result))]
    for title, headings, rows in make_slice_tables(result):
        parts += ["", f"{title}:", "", *render(headings, rows)]
    # GitHub would show a star at the beginning of a notice as a list inside the list.
    notices = [f"\\{notice}" if notice.startswith("*") else notice for notice in make_notices(result)]
    parts += ["", *(f"- {notice}" for notice in notices), ""]
    parts += [
        f"- {metric['title']}: {metric['convention']} ({describe_source(metric)})."
        for metric in result["metrics"].values()
    ]
    return "\n".join(parts) + "\n"


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "°": r"$^\circ$",
    "é": r"\'e",
    "*": r"$^\ast$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def render_latex(result: Result) -> str:
    """Returns the tables of a result for a paper that uses booktabs, with the notices as comments.

    The best mean of each metric is bold. The mean of the LQ images is never bold. A system with fewer images than
    another system has no bold mean, because leaving out hard images improves the mean.
    """

    def escape(text: str) -> str:
        plain = "".join(_LATEX.get(letter, letter) for letter in text)
        return re.sub(r"(?<![\w.}-])-(?=\d)", "$-$", plain)  # a minus sign in place of a hyphen

    def render(headings: list[str], rows: list[list[str]], is_best: Callable[[int, int], bool]) -> list[str]:
        body = [
            " & ".join(
                f"\\textbf{{{escape(cell)}}}" if column and is_best(number, column - 1) else escape(cell)
                for column, cell in enumerate(row)
            )
            + r" \\"
            for number, row in enumerate(rows)
        ]
        begin = rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"
        return [
            begin, r"\toprule", " & ".join(map(escape, headings)) + r" \\", r"\midrule", *body, r"\bottomrule",
            r"\end{tabular}",
        ]  # fmt: skip

    best_rows = {column: _find_best_rows(result, name) for column, name in enumerate(result["metrics"])}
    parts = [f"% {make_title(result)}"] + [f"% {notice}" for notice in make_notices(result)]
    parts += [
        f"% {metric['title']}: {metric['convention']} ({describe_source(metric)})"
        for metric in result["metrics"].values()
    ]
    parts += render(
        ["", *make_headings(result)], make_system_rows(result), lambda number, column: number in best_rows[column]
    )
    if result["differences"]:
        headings = ["paired difference", *make_difference_headings(result)]
        parts += ["", *render(headings, make_difference_rows(result), lambda *_: False)]
    for title, headings, rows in make_slice_tables(result):
        parts += ["", f"% {title}", *render(headings, rows, lambda *_: False)]
    return "\n".join(parts) + "\n"


def _find_best_rows(result: Result, metric: str) -> set[int]:
    """Returns the indices of the rows that have the best mean of a metric.

    The result is empty if fewer than two rows can be compared, or if all their means are equal.
    """
    better = result["metrics"][metric]["better"]
    values = {
        number: average[metric]
        for number, average in enumerate(result["rows"])
        if average["key"] != "lq" and average[metric] is not None
    }
    most_images = max((value["images"] for value in values.values()), default=0)
    means = {number: value["mean"] for number, value in values.items() if value["images"] == most_images}
    if not better or len(set(means.values())) < 2:
        return set()
    best = (max if better == "higher" else min)(means.values())
    return {number for number, mean in means.items() if mean == best}
