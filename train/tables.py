"""The table of an evaluation and its paired differences, for a terminal, a Markdown file or a paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def system_cells(result: Result) -> list[list[str]]:
    """A line a system: its name, and mean and interval of every metric; a dash where there is none."""
    return [
        [_named(line), *(_cell(line[name], metric["digits"], "") for name, metric in result["metrics"].items())]
        for line in result["rows"]
    ]


def difference_cells(result: Result) -> list[list[str]]:
    """A line a paired difference; MARK where its interval excludes zero; people above zero of how many."""
    names = [name for name in result["metrics"] if any(name in line for line in result["differences"])]
    lines = []
    for line in result["differences"]:
        cells = []
        for name in names:
            found = line[name]
            told = _cell(found, result["metrics"][name]["digits"], "+")
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
            told.append(f"{len(files)} files of {name} belong to no image of the set ({', '.join(files[:3])}, ...).")
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
    """Print it."""
    console = Console()
    first = Table("system", title=title(result), title_justify="left")
    for head in headings(result):
        first.add_column(head, justify="right")
    for cells in system_cells(result):
        first.add_row(cells[0], *(cell.replace(" [", "\n[") for cell in cells[1:]))
    found: list[Any] = [first]
    if result["differences"]:
        second = Table("paired difference", title_justify="left")
        for head in compared_headings(result):
            second.add_column(head, justify="right")
        for cells in difference_cells(result):
            second.add_row(cells[0], *(cell.replace(" [", "\n[") for cell in cells[1:]))
        found.append(second)
    console.print(Group(*found, *(Text(note) for note in notes(result))))


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
