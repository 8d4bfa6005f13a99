"""CSV files that people write: read whole, or refused with the line."""

from __future__ import annotations

import csv
from pathlib import Path

from manifests.errors import BadInput


def read_csv(table: Path, needed: tuple[str, ...]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns that the first line names, and the number and cells of every other line that is not empty.

    Raises BadInput for what is no CSV in UTF-8, for a first line that does not name each column of `needed` once, and
    for a line with more cells than the first.
    """
    lines: list[tuple[int, list[str]]] = []
    number = 1  # where a record begins; a quote that is not closed swallows the lines after it
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                lines.append((number, cells))
                number = reader.line_num + 1
    except UnicodeDecodeError:
        raise BadInput(f"{table} is not UTF-8 text: save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise BadInput(f"{table}, line {number}: this is no CSV ({error}): is a quote not closed?") from None
    except OSError as error:
        raise BadInput(f"{table} cannot be read: {error.strerror or error}.") from None
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    if any(header.count(column) != 1 for column in needed):
        raise BadInput(
            f"{table}: the first line must name the column{'s' if len(needed) > 1 else ''} {' and '.join(needed)}, "
            f"{'each ' if len(needed) > 1 else ''}once."
        )
    found = []
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise BadInput(
                f"{table}, line {number}: {len(cells)} columns where the first line names {len(header)}; put quotes "
                "around what holds a comma."
            )
        if cells:
            found.append((number, cells))
    return header, found
