"""What an evaluation's JSON says, as the cells of a table and as sentences: for report, page, paper and terminal.

A result is what `likeness evaluate` and `likeness counterfactuals` write, see train/evaluate.py.
"""

from __future__ import annotations

from typing import Any

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
                told += f"{' ' + MARK if found['excludes_zero'] else ''} {found['people_above']}/{found['people']}"
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
        unmeasured[row["key"], row["reason"]] = unmeasured.get((row["key"], row["reason"]), 0) + 1
    told += [f"Not measured: {count} of {key}: {reason}." for (key, reason), count in unmeasured.items()]
    for line in result["rows"]:
        for name, metric in result["metrics"].items():
            found = line[name]
            have = line["images"] - line["unmeasured"]
            if found is not None and found["images"] < have and metric["without_a_figure"]:
                few = f"{have - found['images']} of {have} images of {line['system']} have no {metric['title']}"
                left = f"; the others are of {found['people']} people" if found["people"] < result["people"] else ""
                left += ", and their interval is over images" if left and found["over"] == "images" else ""
                told.append(f"{few}: {metric['without_a_figure']}{left}.")
    for name, files in result.get("extra", {}).items():
        if files:
            more = ", ..." if len(files) > 3 else ""
            told.append(f"{len(files)} files of {name} belong to no image of the set: {', '.join(files[:3])}{more}.")
    told += [f"No {name}: {reason}" for name, reason in result["not_measured"].items()]
    if result["differences"]:
        told.append(
            f"{MARK} the interval of this one difference excludes zero; of twenty that are nothing one is marked all "
            "the same, and more of few people. None is marked of fewer than five images. n/m: of n of m people the "
            "mean is above zero."
        )
    return told


def title(result: Result) -> str:
    """What was measured."""
    who = "person" if result["people"] == 1 else "people"
    named = f", {result['checkpoint']}" if "checkpoint" in result else ""
    return f"{result['lq_set']}: {result['images']} images of {result['people']} {who}{named}"


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
