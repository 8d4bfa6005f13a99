"""OUT/restored.jsonl: what lies in a folder of restored photos and what it was made from, over all calls.

A line is what `restore` answers for a photo, with `source` (absolute path), `place` (of the PNG, below OUT) and
`settings` (a hash of restorer, references and options).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.runtime.files import write_atomically
from manifests.runtime.text import make_printable

LOG = "restored.jsonl"

Entry = dict[str, Any]


def entry(row: Entry, photo: Path, target: Path, out: Path, settings: str) -> Entry:
    """The line of one photo."""
    return {**row, "source": _absolute(photo), "place": str(target.relative_to(out)), "settings": settings}


def select_earlier_entries(out: Path, todo: Sequence[tuple[Path, Path]], settings: str | None) -> list[Entry]:
    """The lines of earlier calls that a call for (photo, target) in `todo` leaves standing.

    Raises BadInput where a target is there already and is not this photo restored with these settings (None: any).
    """
    before = _read_log(out)
    known = {line["place"]: line for line in before if "place" in line}
    places = {str(target.relative_to(out)): (photo, target) for photo, target in todo}
    for place, (photo, target) in places.items():
        if not os.path.lexists(target):
            continue
        there = known.get(place)
        if there is None:
            raise BadInput(
                f"{make_printable(target)} is there already and not from here: name another folder with --out."
            )
        if there["source"] != _absolute(photo):
            raise BadInput(
                f"{make_printable(target)} is there already, restored from {make_printable(there['source'])}: "
                "name another folder with --out."
            )
        if settings is not None and there["settings"] != settings:
            raise BadInput(
                f"{make_printable(target)} is there already, restored by another checkpoint, with other references or "
                "options: name another folder with --out, or remove it."
            )
    sources = {_absolute(photo) for photo, _ in todo}

    def stands(line: Entry) -> bool:
        # a photo that gave nothing before gets its new line instead
        return line.get("place") not in places and (line["status"] == "ok" or line.get("source") not in sources)

    return [line for line in before if stands(line)]


def write_log(out: Path, lines: Sequence[Entry]) -> None:
    write_atomically(out / LOG, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode())


def _absolute(path: Path) -> str:
    return os.path.normpath(path.absolute())


def _read_log(out: Path) -> list[Entry]:
    try:
        lines = [json.loads(line) for line in (out / LOG).read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except ValueError:
        lines = [None]
    if not all(isinstance(line, dict) and {"photo", "status"} <= line.keys() for line in lines):
        raise BadInput(f"{make_printable(out / LOG)} is no log of restored photos: name another folder with --out.")
    return lines
