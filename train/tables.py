"""The table of an evaluation and its paired differences, for a terminal, a Markdown file or a paper."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

Result = dict[str, Any]

DASH = "–"
MARK = "*"


def headings(result: Result) -> list[str]:
    """A column's head for every metric: title, unit, and which way is better."""
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    units = {name: f", {metric['unit']}" if metric["unit"] else "" for name, metric in result["metrics"].items()}
    return [m["title"] + units[name] + arrows[m["better"]] for name, m in result["metrics"].items()]


def system_cells(result: Result, most: int = 9) -> list[list[str]]:
    """A line a system: its name, mean and interval of every metric, with at most so many digits; a dash for none."""
    return [
        [
            _named(line),
            *(_cell(line[name], min(metric["digits"], most), "") for name, metric in result["metrics"].items()),
        ]
        for line in result["rows"]
    ]


def difference_cells(result: Result, most: int = 9) -> list[list[str]]:
    """A line a paired difference; MARK where its interval excludes zero; people above zero of how many."""
    names = [name for name in result["metrics"] if any(name in line for line in result["differences"])]
    lines = []
    for line in result["differences"]:
        cells = []
        for name in names:
            found = line[name]
            told = _cell(found, min(result["metrics"][name]["digits"], most), "+")
            if found is not None:
                told += f"{' ' + MARK if found['excludes_zero'] else ''} {found['people_above']}/{line['people']}"
            cells.append(told)
        lines.append([line["difference"], *cells])
    return lines


def compared_headings(result: Result) -> list[str]:
    """The heads of `difference_cells`: a figure of a whole set has no difference image by image."""
    names = [name for name in result["metrics"] if any(name in line for line in result["differences"])]
    return [head for name, head in zip(result["metrics"], headings(result), strict=True) if name in names]


def notes(result: Result) -> list[str]:
    """What a reader has to know of the figures, a sentence a line."""
    own = " (the dataset's own, which a restorer may have learned through)"
    judge = result["judge"]
    told = [f"{result['interval']}. Identity by {judge['spec']}{own if judge['is_the_datasets_own'] else ''}."]
    if left := result["images_in_set"] - result["images"]:
        told.append(f"{left} more images of the set have no reference, and are not measured.")
    wrong = result["without_wrong_references"]
    if wrong == result["images"]:
        why = "only one person" if result["people"] == 1 else "nobody else with as many photos"
        told.append(f"No row with wrong references: there is {why} in the set.")
    elif wrong:
        told.append(f"For {wrong} images nobody else has as many photos to show wrongly.")
    abouts = result.get("runs") or ({"": result} if "unseen_in_training" in result else {})
    for name, about in abouts.items():
        if about["unseen_in_training"] != "checked":
            of = f" of {name}" if name else ""
            told.append(f"That these people were not in the training{of} is {about['unseen_in_training']}.")
    unmeasured: dict[tuple[str, str], int] = {}
    for row in result["unmeasured"]:
        unmeasured[row["key"], row["reason"]] = unmeasured.get((row["key"], row["reason"]), 0) + 1
    told += [f"Not measured: {count} of {key}: {reason}." for (key, reason), count in unmeasured.items()]
    for line in result["rows"]:
        for name, metric in result["metrics"].items():
            found = line[name]
            have = line["images"] - line["unmeasured"]
            if found is not None and found["images"] < have and metric["without_a_figure"]:
                few = f"{have - found['images']} of {have} images of {line['system']} have no {metric['title']}"
                told.append(f"{few}: {metric['without_a_figure']}.")
    for name, files in result.get("extra", {}).items():
        if files:
            more = ", ..." if len(files) > 3 else ""
            told.append(f"{len(files)} files of {name} belong to no image of the set: {', '.join(files[:3])}{more}.")
    told += [f"No {name}: {reason}" for name, reason in result["not_measured"].items()]
    if result["differences"]:
        told.append(
            f"{MARK} the interval of this one difference excludes zero; of twenty that are nothing one is marked all "
            "the same. n/m: of n of m people the mean is above zero."
        )
    return told


def title(result: Result) -> str:
    """What was measured."""
    who = "person" if result["people"] == 1 else "people"
    named = f", {result['checkpoint']}" if "checkpoint" in result else ""
    return f"{result['lq_set']}: {result['images']} images of {result['people']} {who}{named}"


def show(result: Result) -> None:
    """Print it, in short: three digits, no zero before the point, as many metrics as the terminal is wide for."""
    console = Console()
    fits = max(3, (console.width - 16) // 12)
    shown = {**result, "metrics": dict(list(result["metrics"].items())[:fits])}
    found: list[Any] = [_printed(title(result), "system", headings(shown), system_cells(shown, 3))]
    if result["differences"]:
        cells = difference_cells(shown, 3)
        found.append(_printed("Paired differences", "", compared_headings(shown), cells))
    told = notes(result)
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


def markdown(result: Result) -> str:
    """The same as GitHub's Markdown."""

    def lines(head: list[str], rows: list[list[str]]) -> list[str]:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
        return [f"| {' | '.join(cells[0])} |", f"|---|{'---:|' * (len(head) - 1)}"] + [
            f"| {' | '.join(row)} |" for row in cells[1:]
        ]

    parts = [f"**{title(result)}**", "", *lines(["", *headings(result)], system_cells(result))]
    if result["differences"]:
        parts += ["", *lines(["paired difference", *compared_headings(result)], difference_cells(result))]
    parts += ["", *(f"- {note}" for note in notes(result)), ""]
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


def latex(result: Result) -> str:
    """The same for a paper that uses booktabs; best means are bold, among the systems but the LQ input."""

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
    parts = [f"% {title(result)}"] + [f"% {note}" for note in notes(result)]
    parts += [f"% {metric['title']}: {metric['convention']} ({metric['source']})" for metric in _metrics(result)]
    parts += lines(["", *headings(result)], system_cells(result), lambda number, place: number in leaders[place])
    if result["differences"]:
        heads = ["paired difference", *compared_headings(result)]
        parts += ["", *lines(heads, difference_cells(result), lambda *_: False)]
    return "\n".join(parts) + "\n"


def _best(result: Result, name: str) -> set[int]:
    better = result["metrics"][name]["better"]
    means = {
        number: line[name]["mean"]
        for number, line in enumerate(result["rows"])
        if line["key"] != "lq" and line[name] is not None
    }
    if not better or len(means) < 2:
        return set()
    best = (max if better == "higher" else min)(means.values())
    return {number for number, mean in means.items() if mean == best}


def _metrics(result: Result) -> list[dict[str, Any]]:
    return list(result["metrics"].values())


def _named(line: dict[str, Any]) -> str:
    few = line["images"] - line["unmeasured"]
    return line["system"] + (f" ({few} of {line['images']})" if line["unmeasured"] else "")


def _cell(value: dict[str, float] | None, digits: int, sign: str) -> str:
    if value is None:
        return DASH
    told = f"{value['mean']:{sign}.{digits}f}"
    if "low" not in value:
        return told
    return f"{told} [{value['low']:{sign}.{digits}f}, {value['high']:{sign}.{digits}f}]"
