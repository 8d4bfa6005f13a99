"""Reads CSV files that users write. The message of an error contains the number of the wrong line."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

from manifests.errors import BadInput
from manifests.runtime.text import format_count

# Spreadsheet programs write semicolons in countries with a decimal comma, and tabs in their format "Unicode text".
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


def _find_encoding(table: Path) -> str:
    with table.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _find_separator(first_line: str, required: tuple[str, ...]) -> str:
    for separator in _SEPARATORS:
        cells = [cell.strip().strip('"') for cell in first_line.split(separator)]
        if all(cells.count(column) == 1 for column in required):
            return separator
    return ","


def read_csv(table: Path, required: tuple[str, ...]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the column names of a CSV, and the number and the cells of each line after the first line.

    Empty lines are left out. The first line contains the column names. Commas, semicolons or tabs separate the cells.
    Commas are tried first, then semicolons, then tabs, until the first line names each column of `required` once.
    Raises BadInput if the file is not a CSV in UTF-8, or in UTF-16 with a byte-order mark. Raises BadInput if a line
    has more cells than the first line, or if a column of `required` is missing or repeated.
    """
    lines: list[tuple[int, list[str]]] = []
    number = 1  # the line where a record begins; if a quote is not closed, the record goes on over many lines
    try:
        with table.open(encoding=_find_encoding(table), newline="") as file:
            separator = _find_separator(file.readline(), required)
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            for cells in reader:
                lines.append((number, cells))
                number = reader.line_num + 1
    except UnicodeError:
        raise BadInput(f"{table} is not UTF-8 text. Save the file as CSV in UTF-8.") from None
    except csv.Error as error:
        raise BadInput(
            f"{table}, line {number}: the line is not CSV ({error}). Look for a quote that is not closed."
        ) from None
    except OSError as error:
        raise BadInput(f"{table} cannot be read: {error.strerror or error}.") from None
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    if any(header.count(column) != 1 for column in required):
        raise BadInput(
            f"{table}: the first line must name the column{'s' if len(required) > 1 else ''} {' and '.join(required)}, "
            f"{'each ' if len(required) > 1 else ''}once."
        )
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise BadInput(
                f"{table}, line {number}: the line has {format_count(len(cells), 'column')}, but the first line names "
                f"{len(header)}. Put quotes around text that contains a {_SEPARATORS[separator]}."
            )
        if cells:
            rows.append((number, cells))
    return header, rows
