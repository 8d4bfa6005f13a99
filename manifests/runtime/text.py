"""Words for people: names that may hold any byte, and counts."""

from __future__ import annotations

import os
from pathlib import Path


def make_printable(text: str | Path) -> str:
    """A path of any bytes, or words that hold one, on one line that every terminal takes; never for looking it up."""
    said = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in said)


def format_count(count: int, one: str, several: str | None = None) -> str:
    """A count with its noun: 1 photo, 2 photos; `several` where it is not `one` with an s."""
    return f"{count} {one if count == 1 else several or one + 's'}"
