"""Reads the labels in a CSV file with the columns photo and label, and finds the photo of each label.

The columns x, y, w and h may give the box of a face, for photos of several people.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.photos.csv_tables import read_csv
from curate.photos.labelling.label_boxes import PhotoLabels
from curate.photos.labelling.xmp_people import Box, clip_box
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import MAX_NAME
from manifests.runtime.text import format_count
from manifests.runtime.uris import normalise_name

EXAMPLES = 5  # largest number of examples in a notice
_BOX_COLUMNS = ("x", "y", "w", "h")
# a box may reach over the border of its photo by .5% (ours) of the side, because people round numbers
_ROUNDING = 0.005


@dataclass(frozen=True)
class LabelLine:
    """One line of a CSV.

    The box contains x0, y0, x1, y1 as shares of the width and height of the upright photo. The box is None if the line
    has none.
    """

    photo: str
    label: str
    box: Box | None = None


def read_label_csv(table: Path) -> list[LabelLine]:
    """Returns the lines of a CSV. Columns other than photo, label, x, y, w and h are ignored.

    Raises BadInput if a line is wrong. The error contains the number of the line.
    """
    header, rows = read_csv(table, ("photo", "label"))
    box_columns = [header.count(name) for name in _BOX_COLUMNS]
    if any(box_columns) and box_columns != [1] * len(_BOX_COLUMNS):
        raise BadInput(f"{table}: the first line must name the columns x, y, w and h, each once, or none of them.")
    columns = [header.index(name) for name in ("photo", "label", *(_BOX_COLUMNS if any(box_columns) else ()))]
    lines = []
    for number, cells in rows:
        photo, label, *box = (cells[at] if at < len(cells) else "" for at in columns)
        label = label.strip()
        if not photo or not label:
            raise BadInput(
                f"{table}, line {number}: the cell of the photo or of the label is empty. Write a photo and a label."
            )
        if not label.isprintable() or len(label) > MAX_NAME:
            raise BadInput(
                f"{table}, line {number}: the label is longer than {MAX_NAME} characters, or has a character that "
                "is not printable, such as the end of a line. Write one line of printable characters. If the label "
                "looks right, look for an earlier quote that is not closed."
            )
        lines.append(LabelLine(photo, label, _read_box(f"{table}, line {number}", box)))
    if not lines:
        raise BadInput(f"{table} names no photo. Below the first line, write one line for each photo.")
    return lines


def _read_box(where: str, cells: Sequence[str]) -> Box | None:
    """Returns the box in the cells x, y, w and h, or None if all cells are empty. Raises BadInput."""
    if not any(cell.strip() for cell in cells):
        return None
    try:
        x, y, w, h = (float(cell.replace(",", ".")) for cell in cells)  # a spreadsheet may write a decimal comma
    except ValueError:
        raise BadInput(
            f"{where}: the box {', '.join(cells)} is not four numbers. Write a number into each of x, y, w and h, or "
            "leave all four empty."
        ) from None
    box = clip_box((x, y, x + w, y + h))
    if box is None or min(x, y) < -_ROUNDING or max(x + w, y + h) > 1 + _ROUNDING:
        raise BadInput(
            f"{where}: the box {x:g}, {y:g}, {w:g}, {h:g} is not inside the photo. Divide x and w by the width of the "
            "photo, and y and h by its height. x and y are the top left corner."
        )
    return box


def match_label_csv(table: Path, files: Iterable[tuple[Path, str]]) -> tuple[PhotoLabels, list[str]]:
    """Returns the labels of the lines that match exactly one photo, and notices about all other lines.

    `files` has the path and the photo of each file.
    """
    files_named: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, photo in files:
        files_named[normalise_name(path.name)].append((normalise_name(path), photo))
    labels = PhotoLabels()
    unmatched: list[str] = []
    ambiguous: list[str] = []
    for line in read_label_csv(table):
        normal_path = os.path.normpath(normalise_name(line.photo))
        same_name = files_named.get(Path(normal_path).name, [])
        # A line may contain the whole path of a photo, or the end of the path. If the text of the line is the whole
        # path of a photo, photos whose paths only end with the text are ignored.
        matches = [
            photo for path, photo in same_name if path in (normal_path, normalise_name(Path(normal_path).absolute()))
        ]
        matches = matches or [photo for path, photo in same_name if path.endswith("/" + normal_path)]
        if not matches:
            unmatched.append(line.photo)
        elif len(set(matches)) > 1:
            ambiguous.append(line.photo)
        elif line.box is None:
            labels.whole[matches[0]].add(line.label)
        else:
            labels.boxes[matches[0]].append((line.label, line.box))
    unmatched, ambiguous = list(dict.fromkeys(unmatched)), list(dict.fromkeys(ambiguous))
    notices = []
    if unmatched:
        notices.append(f"{table}: no photo matches {format_count(len(unmatched), 'file name')}: {_join(unmatched)}.")
    if ambiguous:
        notices.append(
            f"{table}: several photos match {format_count(len(ambiguous), 'file name')}: {_join(ambiguous)}. Write the "
            "folder in front of the name."
        )
    return labels, notices


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (" and others" if len(names) > EXAMPLES else "")
