"""Reads and writes the log of `restore`, OUT/restored.jsonl.

The log has a line for each photo that a call of `restore` tried to restore into the folder OUT. A line has the fields
of PhotoOutcome (train/restore/decisions/outcomes.py) and these fields:

`source` is the absolute path of the photo.
`source_sha256` is the sha256 of the photo's file, or None if nothing was written or the file is gone. By this hash,
  `likeness review` finds the photo even if its file was moved or overwritten.
`place` is the path of the restored file inside OUT.
`settings` is a hash of the restorer, the references and the options.
`precision` is the number type in which the restorer computed: fp32 or bf16.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.runtime.files import sha256_file, write_atomically
from manifests.runtime.text import make_printable
from train.restore.output_paths import PhotoOutput

LOG = "restored.jsonl"

Entry = dict[str, Any]


def make_entry(outcome: Entry, output: PhotoOutput, out: Path, settings: str, precision: str) -> Entry:
    """Returns the log line of one photo. `out` is the folder OUT."""
    place = output.own if outcome["output"] is None else Path(outcome["output"])
    return {
        **outcome,
        "source": _make_absolute(output.photo),
        "source_sha256": None if outcome["output"] is None else _hash_file(output.photo),
        "place": str(place.relative_to(out)),
        "settings": settings,
        "precision": precision,
    }


def select_earlier_entries(out: Path, outputs: Sequence[PhotoOutput], settings: str | None) -> list[Entry]:
    """Returns the lines of earlier calls that stay in the log. `outputs` are the files of this call.

    A line is dropped if this call can write the same file, or if the photo failed earlier and this call tries it again.
    Raises BadInput if an output file of this call already exists and is not in the log, is from another photo, or was
    restored with other settings. If `settings` is None, the settings are not compared.
    """
    entries = _read_log(out)
    by_place = {entry["place"]: entry for entry in entries if "place" in entry}
    places = {str(file.relative_to(out)): (photo, file) for photo, *files in outputs for file in files}
    for place, (photo, target) in places.items():
        if not os.path.lexists(target):
            continue
        earlier = by_place.get(place)
        if earlier is None:
            raise BadInput(
                f"{make_printable(target)} already exists, but `likeness restore` did not write this file: give "
                "another folder with --out."
            )
        if earlier["source"] != _make_absolute(photo):
            raise BadInput(
                f"{make_printable(target)} already exists and was restored from {make_printable(earlier['source'])}: "
                "give another folder with --out."
            )
        if settings is not None and earlier["settings"] != settings:
            raise BadInput(
                f"{make_printable(target)} already exists and was restored with a different checkpoint, different "
                "references or different options: remove the file, or give another folder with --out."
            )
    sources = {_make_absolute(output.photo) for output in outputs}
    return [
        entry
        for entry in entries
        if entry.get("place") not in places
        and (entry["status"] in ("ok", "kept") or entry.get("source") not in sources)
    ]


def write_log(out: Path, entries: Sequence[Entry]) -> None:
    """Writes OUT/restored.jsonl with the lines `entries`."""
    write_atomically(out / LOG, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in entries).encode())


def _hash_file(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except OSError:
        return None


def _make_absolute(path: Path) -> str:
    return os.path.normpath(path.absolute())


def _read_log(out: Path) -> list[Entry]:
    try:
        entries = [json.loads(line) for line in (out / LOG).read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except ValueError:
        entries = [None]
    if not all(isinstance(entry, dict) and {"photo", "status"} <= entry.keys() for entry in entries):
        raise BadInput(f"{make_printable(out / LOG)} is not a log of restored photos: give another folder with --out.")
    return entries
