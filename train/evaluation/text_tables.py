"""The table of an evaluation and its paired differences, for a terminal, a Markdown file or a paper."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from manifests.report.result_tables import (
    Result,
    make_difference_headings,
    make_difference_rows,
    make_headings,
    make_notices,
    make_system_rows,
    make_title,
)


def print_result(result: Result) -> None:
    """Print it, in short: three digits, no zero before the point, as many metrics as the terminal is wide for."""
    console = Console()
    fits = max(3, (console.width - 16) // 12)
    shown = {**result, "metrics": dict(list(result["metrics"].items())[:fits])}
    found: list[Any] = [_printed(make_title(result), "system", make_headings(shown), make_system_rows(shown, 3))]
    if result["differences"]:
        cells = make_difference_rows(shown, 3)
        found.append(_printed("Paired differences", "", make_difference_headings(shown), cells))
    told = make_notices(result)
    if left := [metric["title"] for metric in list(result["metrics"].values())[fits:]]:
        told.append(f"Also measured, and too wide for this terminal: {', '.join(left)}; --markdown FILE has all.")
    console.print(Group(*found, *(Text(note) for note in told)))


def _printed(name: str, first: str, heads: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=False)
    table.add_column(first, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for cells in rows:
        short = (re.sub(r"(?<!\d)0\.", ".", cell).replace(" [", "\n[") for cell in cells[1:])
        table.add_row(cells[0], *short)
    return table


def render_markdown(result: Result) -> str:
    """The same as GitHub's Markdown."""

    def lines(head: list[str], rows: list[list[str]]) -> list[str]:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
        return [f"| {' | '.join(cells[0])} |", f"|---|{'---:|' * (len(head) - 1)}"] + [
            f"| {' | '.join(row)} |" for row in cells[1:]
        ]

    parts = [f"**{make_title(result)}**", "", *lines(["", *make_headings(result)], make_system_rows(result))]
    if result["differences"]:
        parts += ["", *lines(["paired difference", *make_difference_headings(result)], make_difference_rows(result))]
    parts += ["", *(f"- {note}" for note in make_notices(result)), ""]
    parts += [f"- {metric['title']}: {metric['convention']} ({metric['source']})." for metric in _metrics(result)]
    return "\n".join(parts) + "\n"


_ESCAPED = {c: f"\\{c}" for c in "&%$#_{}"} | {
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
    """The same for a paper that uses booktabs. The best mean is bold, of the systems but the LQ input and but those
    that have fewer images than others: who leaves out the hard ones has an easy mean."""

    def escape(text: str) -> str:
        return "".join(_ESCAPED.get(letter, letter) for letter in text)

    def lines(head: list[str], rows: list[list[str]], best: Callable[[int, int], bool]) -> list[str]:
        body = [
            " & ".join(
                f"\\textbf{{{escape(cell)}}}" if place and best(number, place - 1) else escape(cell)
                for place, cell in enumerate(row)
            )
            + r" \\"
            for number, row in enumerate(rows)
        ]
        opened = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
        return [
            opened, r"\toprule", " & ".join(map(escape, head)) + r" \\", r"\midrule", *body, r"\bottomrule",
            r"\end{tabular}",
        ]  # fmt: skip

    leaders = {place: _best(result, name) for place, name in enumerate(result["metrics"])}
    parts = [f"% {make_title(result)}"] + [f"% {note}" for note in make_notices(result)]
    parts += [f"% {metric['title']}: {metric['convention']} ({metric['source']})" for metric in _metrics(result)]
    parts += lines(
        ["", *make_headings(result)], make_system_rows(result), lambda number, place: number in leaders[place]
    )
    if result["differences"]:
        heads = ["paired difference", *make_difference_headings(result)]
        parts += ["", *lines(heads, make_difference_rows(result), lambda *_: False)]
    return "\n".join(parts) + "\n"


def _best(result: Result, name: str) -> set[int]:
    better = result["metrics"][name]["better"]
    found = {
        number: line[name]
        for number, line in enumerate(result["rows"])
        if line["key"] != "lq" and line[name] is not None
    }
    most = max((value["images"] for value in found.values()), default=0)
    means = {number: value["mean"] for number, value in found.items() if value["images"] == most}
    if not better or len(means) < 2:
        return set()
    best = (max if better == "higher" else min)(means.values())
    return {number for number, mean in means.items() if mean == best}


def _metrics(result: Result) -> list[dict[str, Any]]:
    return list(result["metrics"].values())
