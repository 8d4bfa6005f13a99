"""Text for the user: names of any bytes on one line, and counts with their noun."""

from __future__ import annotations

import os
from pathlib import Path


def make_printable(text: str | Path) -> str:
    """Returns a path of any bytes, or a text that holds one, as one line that every terminal can print.

    The result is for printing only, since it can differ from the name of the file.
    """
    decoded = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in decoded)


def format_count(count: int, singular: str, plural: str | None = None) -> str:
    """Returns a count with its noun: 1 photo, 2 photos. Pass `plural` if the plural is not the singular with an s."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
