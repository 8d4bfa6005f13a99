"""What an evaluation's JSON says, as the cells of a table and as sentences: for report, page, paper and terminal.

A result is what `likeness evaluate` and `likeness counterfactuals` write, see train/evaluation/evaluate.py.
"""

from __future__ import annotations

from typing import Any

from manifests.runtime.text import format_count

Result = dict[str, Any]

DASH = "–"
MARK = "*"


def make_headings(result: Result) -> list[str]:
    """A column's head for every metric: title, unit, and which way is better."""
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    units = {name: f", {metric['unit']}" if metric["unit"] else "" for name, metric in result["metrics"].items()}
    return [m["title"] + units[name] + arrows[m["better"]] for name, m in result["metrics"].items()]


def make_system_rows(result: Result, most: int = 9) -> list[list[str]]:
    """A line a system: its name, mean and interval of every metric, with at most so many digits; a dash for none."""
    return [
        [
            _named(line),
            *(_cell(line[name], min(metric["digits"], most), "") for name, metric in result["metrics"].items()),
        ]
        for line in result["rows"]
    ]


def make_difference_rows(result: Result, most: int = 9) -> list[list[str]]:
    """A line a paired difference; MARK where its interval excludes zero; people above zero of how many."""
    names = [name for name in result["metrics"] if any(name in line for line in result["differences"])]
    lines = []
    for line in result["differences"]:
        cells = []
        for name in names:
            found = line[name]
            told = _cell(found, min(result["metrics"][name]["digits"], most), "+")
            if found is not None:
                told += f"{' ' + MARK if found['excludes_zero'] else ''} {found['people_above']}/{found['people']}"
            cells.append(told)
        lines.append([line["difference"], *cells])
    return lines


def make_difference_headings(result: Result) -> list[str]:
    """The heads of `difference_cells`: a figure of a whole set has no difference image by image."""
    names = [name for name in result["metrics"] if any(name in line for line in result["differences"])]
    return [head for name, head in zip(result["metrics"], make_headings(result), strict=True) if name in names]


def make_notices(result: Result) -> list[str]:
    """What a reader has to know of the figures, a sentence a line."""
    own = " (the dataset's own, which a restorer may have learned through)"
    judge = result["judge"]
    name = judge["spec"].rsplit("/", 1)[-1]  # of a folder, not where it lies
    told = [f"{result['interval']}. Identity by {name}{own if judge['is_the_datasets_own'] else ''}."]
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
        what = row["key"], row["reason"].rstrip(".")
        unmeasured[what] = unmeasured.get(what, 0) + 1
    told += [f"Not measured: {count} of {key}: {reason}." for (key, reason), count in unmeasured.items()]
    told += [
        f"{few} of {have} images of {system} have no {', '.join(titles)}: {why}."
        for (system, few, have, why), titles in _partly(result).items()
    ]
    for name, files in result.get("extra", {}).items():
        if files:
            more = ", ..." if len(files) > 3 else ""
            told.append(
                f"{format_count(len(files), 'file')} of {name} with no image in the set: {', '.join(files[:3])}{more}."
            )
    missing: dict[str, list[str]] = {}
    for name, reason in result["not_measured"].items():
        missing.setdefault(reason, []).append(result["metrics"][name]["title"])
    told += [f"No {', '.join(titles)}: {reason}" for reason, titles in missing.items()]
    if result["differences"]:
        told.append(
            f"{MARK} the interval of this one difference excludes zero; of twenty that are nothing one is marked all "
            "the same, and more of few people. None is marked of fewer than five images. n/m: of n of m people the "
            "mean is above zero."
        )
    return told


def _partly(result: Result) -> dict[tuple[str, int, int, str], list[str]]:
    """Metrics that only some images of a system have, by system, how many lack them, of how many, and why."""
    found: dict[tuple[str, int, int, str], list[str]] = {}
    for line in result["rows"]:
        have = line["images"] - line["unmeasured"]
        for name, metric in result["metrics"].items():
            value = line[name]
            if value is None or "people" not in value or value["images"] == have or not metric["without_a_figure"]:
                continue
            why = metric["without_a_figure"]
            if value["people"] < result["people"]:
                why += f"; the others are of {_people(value['people'])}"
                why += ", and their interval is over images" if value["over"] == "images" else ""
            found.setdefault((line["system"], have - value["images"], have, why), []).append(metric["title"])
    return found


def make_tables(result: Result, most: int = 9) -> list[tuple[str, list[str], list[list[str]]]]:
    """Means, and paired differences where there are any, as name, head and body of a table for a page."""
    found = [("Means", *_upright("system", make_headings(result), make_system_rows(result, most)))]
    if result["differences"]:
        cells = make_difference_rows(result, most)
        found.append(("Paired differences, image by image", *_upright("", make_difference_headings(result), cells)))
    return found


def _upright(corner: str, heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table that is no wider than it is long: metrics go down where they are more than rows."""
    if len(heads) <= len(rows):
        return [corner, *heads], rows
    return ["", *(row[0] for row in rows)], [[head, *(row[i] for row in rows)] for i, head in enumerate(heads, 1)]


def make_title(result: Result) -> str:
    """What was measured."""
    named = f", {result['checkpoint']}" if "checkpoint" in result else ""
    return f"{result['lq_set']}: {format_count(result['images'], 'image')} of {_people(result['people'])}{named}"


def _people(count: int) -> str:
    return format_count(count, "person", "people")


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
