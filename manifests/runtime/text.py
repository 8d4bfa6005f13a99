"""Formats text for the user: file names as one printable line, counts with a noun, and tables in Markdown."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from manifests.errors import BadInput

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def make_printable(text: str | Path) -> str:
    """Returns a path, or a text that contains a path, as one line that every terminal can print.

    The path may consist of any bytes. Use the result only for printing, because the result can differ from the real
    path.
    """
    decoded = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in decoded)


def format_count(count: int, singular: str, plural: str | None = None) -> str:
    """Returns a count with its noun, such as "2 photos". Pass `plural` if the plural is not the singular plus "s"."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def format_markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown. Each line ends with a line break."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines
    )


def suggest_name(word: str, names: Iterable[str]) -> str:
    """Returns a sentence with the name that is most similar to `word`.

    If no name is similar to `word`, the sentence lists all names.
    """
    listed = list(names)
    nearest = difflib.get_close_matches(word, listed, 1)
    return f"The nearest name is {nearest[0]}." if nearest else f"The names are {', '.join(listed)}."


def take_first_line(error: Exception) -> str:
    """Returns the first line of the text of an error. Without a text, returns the name of the error's class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def parse_size(option: str, text: str) -> int:
    """Returns the bytes of a size such as 8G or 500M. The units K, M, G and T are powers of 1,024.

    Raises BadInput, which names the option, if `text` is not a size above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size == 0:
        raise BadInput(f"{option} {text} is not a size. Give a number and a unit, such as 8G or 500M.")
    return size
