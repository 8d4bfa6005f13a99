"""Makes tables from a result. The report, the page of an evaluation, a paper and the terminal show these tables.

A result is the content of a JSON file that `likeness evaluate` or `likeness counterfactuals` writes
(train/evaluation/evaluate.py). A result has a row of figures for each system. A system is the LQ input, a restorer with
a choice of references, or a folder of images. A table is a name, a list of headings, and rows of cells.
"""

from __future__ import annotations

from typing import Any

from manifests.runtime.text import format_count

Result = dict[str, Any]

DASH = "–"  # A cell contains this text if its figure could not be measured.
MARK = "*"  # This mark follows a paired difference that is significant, or whose interval excludes zero.


def make_title(result: Result) -> str:
    """Returns a title with the name of the frozen set, the counts of images and people, and the checkpoint.

    A result of several checkpoints has no checkpoint in its title.
    """
    checkpoint = f", {result['checkpoint']}" if "checkpoint" in result else ""
    people = f" of {count_people(result['people'])}" if knows_people(result) else ""
    name = f" ({result['benchmark']})" if "benchmark" in result else ""
    return f"{result['lq_set']}{name}: {format_count(result['images'], 'image')}{people}{checkpoint}"


def make_headings(result: Result) -> list[str]:
    """Returns a heading for each metric: the title, the unit, and an arrow up or down to the better figures."""
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    units = {name: f", {metric['unit']}" if metric["unit"] else "" for name, metric in result["metrics"].items()}
    return [metric["title"] + units[name] + arrows[metric["better"]] for name, metric in result["metrics"].items()]


def describe_source(metric: dict[str, Any]) -> str:
    """Returns a text with the source of a metric, its libraries with their versions, and its files of weights.

    Each file of weights has the first digits of its sha256, and its licence, beside its name. A result of an older
    version has only the source.
    """
    libraries = metric.get("libraries", {}).items()
    parts = [metric["source"], *(f"{name} {version}" for name, version in libraries if version)]
    parts += [
        f"{file['file']} (sha256 {file['sha256'][:8]}, licence: {file['licence']})"
        for file in metric.get("weights", ())
    ]
    return "; ".join(parts)


def make_system_rows(result: Result, max_digits: int = 9) -> list[list[str]]:
    """Returns a row for each system: the system's name, then the mean and interval of each metric.

    A number has at most `max_digits` digits after the point. The cell of a figure that could not be measured is DASH.
    """
    return [
        [
            _name_system(row),
            *(
                _format_figure(row[name], min(metric["digits"], max_digits), "")
                for name, metric in result["metrics"].items()
            ),
        ]
        for row in result["rows"]
    ]


def make_difference_rows(result: Result, max_digits: int = 9) -> list[list[str]]:
    """Returns a row for each paired difference between two systems, with cells as in `make_system_rows`.

    A cell has the mark MARK if a test finds the difference significant. If the difference was not tested, its cell has
    MARK if the interval excludes zero. A mean that is printed as zero has no mark. A cell ends with n/m if the mean
    difference is above zero for n of m people.
    """
    rows = []
    for row in result["differences"]:
        cells = []
        for name in _list_paired_metrics(result):
            figure = row[name]
            digits = min(result["metrics"][name]["digits"], max_digits)
            cell = _format_figure(figure, digits, "+")
            if figure is not None:
                is_marked = figure.get("is_significant", figure["excludes_zero"])
                mark = f" {MARK}" if is_marked and round(figure["mean"], digits) else ""
                cell += f"{mark} {figure['people_above']}/{figure['people']}"
            cells.append(cell)
        rows.append([row["difference"], *cells])
    return rows


def make_difference_headings(result: Result) -> list[str]:
    """Returns the headings of `make_difference_rows`.

    A metric of a whole set has no heading, because it has no paired differences.
    """
    names = _list_paired_metrics(result)
    return [heading for name, heading in zip(result["metrics"], make_headings(result), strict=True) if name in names]


def make_tables(result: Result, max_digits: int = 9) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns the table of means, the table of paired differences if the result has any, and the tables of slices."""
    means = _turn_upright("system", make_headings(result), make_system_rows(result, max_digits))
    tables = [("Means", *means)]
    if result["differences"]:
        headings, rows = make_difference_headings(result), make_difference_rows(result, max_digits)
        tables.append(("Paired differences, image by image", *_turn_upright("", headings, rows)))
    return [*tables, *make_slice_tables(result, max_digits)]


def make_slice_tables(result: Result, max_digits: int = 9) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns a table of slices for each main system, or [] if the result has no slices.

    A slice is a part of the set, for example the images with a strong degradation. Each row has the name of a slice,
    its number of images, and the means of the metrics.
    """
    names = [name for name, metric in result["metrics"].items() if _has_slices(result, name)]
    headings = [
        heading for name, heading in zip(result["metrics"], make_headings(result), strict=True) if name in names
    ]
    tables = []
    for key, system in list_main_systems(result).items() if result.get("slices") else ():
        rows = []
        for column, one in list_slices(result):
            own = next((row for row in one["rows"] if row["key"] == key), None)
            label = f"{column['title']}: {one['name']} ({format_count(one['images'], 'image')})"
            cells = [
                _format_figure(
                    None if own is None else own[name], min(result["metrics"][name]["digits"], max_digits), ""
                )
                for name in names
            ]
            rows.append([label, *cells])
        tables.append((f"Slices of {system}", ["slice", *headings], rows))
    return tables


def list_main_systems(result: Result) -> dict[str, str]:
    """Returns a dict that maps the key of each main system to its name.

    The main systems are the restorations with all right references, and the folders of images. If there are none, all
    systems except the LQ input are main systems."""
    systems = {row["key"]: row["system"] for row in result["rows"] if row["key"] != "lq"}
    # in a set without references, the restorations without references are main systems
    most = str(result.get("references")) if result.get("with_references", True) else "0"
    folders = result.get("extra", {})
    main = {key: name for key, name in systems.items() if key.split("/")[-1] == most or key in folders}
    return main or systems


def _has_slices(result: Result, metric: str) -> bool:
    return any(metric in row for _, one in list_slices(result) for row in one["rows"])


def list_slices(result: Result) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns pairs of a column and one of its slices."""
    return [(column, one) for column in result.get("slices", []) for one in column["slices"]]


def _list_paired_metrics(result: Result) -> list[str]:
    return [name for name in result["metrics"] if any(name in row for row in result["differences"])]


def _turn_upright(corner: str, headings: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the rows of a table. Exchanges rows and columns if there are more columns than rows."""
    if len(headings) <= len(rows):
        return [corner, *headings], rows
    turned = [[heading, *(row[i] for row in rows)] for i, heading in enumerate(headings, 1)]
    return ["", *(row[0] for row in rows)], turned


def knows_people(result: Result) -> bool:
    """Returns whether the set says who is on each image. Some imported sets do not say this."""
    return bool(result.get("people_known", True))


def count_people(count: int) -> str:
    return format_count(count, "person", "people")


def _name_system(row: dict[str, Any]) -> str:
    """Returns the name of a system.

    If some images were not measured, the text also has the number of measured images.
    """
    measured = row["images"] - row["unmeasured"]
    return row["system"] + (f" ({measured} of {row['images']})" if row["unmeasured"] else "")


def _format_figure(figure: dict[str, float] | None, digits: int, sign: str) -> str:
    if figure is None:
        return DASH
    mean = f"{figure['mean']:{sign}.{digits}f}"
    if "low" not in figure:
        return mean
    return f"{mean} [{figure['low']:{sign}.{digits}f}, {figure['high']:{sign}.{digits}f}]"
