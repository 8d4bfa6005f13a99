"""Reads the log of decisions, and reads decision files.

The log can be written as a decision file, and then be applied to another dataset.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from curate.decisions.settings import read_curation_settings
from curate.detection.filter_files import is_dropped_by_filter
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import Decision, FaceLocation, encode_faces, parse_decision
from manifests.ledger.decisions.face_finder import FaceFinder, find_unused_faces
from manifests.ledger.decisions.in_force import find_takers, find_undos, select_in_force
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Face

# kind -> the key of `Decision.name` in a file
NAME_KEYS = {"rename": "name", "assign": "split", "drop": "reason", "consent": "consent"}


@dataclass(frozen=True)
class LogEntry:
    """A decision of the log, the decisions that take it back, and its faces that are not in use any more."""

    decision: Decision
    time: datetime  # Time at which the decision was recorded.
    undone_by: int | None  # Number of the undo that takes the decision back.
    missing: tuple[str, ...]  # A phrase for each face that is not in use, with the photo and the reason.
    taken_back_by: tuple[int, ...] = ()  # Numbers of newer decisions in force that take back effects of the decision.
    is_void: bool = False  # Whether newer decisions take back all effects of the decision.


def read_log_entries(dataset: Path) -> list[LogEntry]:
    """Returns the whole log, the oldest decision first. Raises BadInput if no curation of the dataset has finished."""
    with Ledger.open(dataset) as ledger:
        read_curation_settings(ledger)  # raises BadInput if no curation of the dataset has finished
        rows, faces = ledger.read_rows(DecisionRow), ledger.read_rows(Face)
    decisions, finder = [parse_decision(row) for row in rows], FaceFinder(faces)
    undo_of, takers = find_undos(decisions), find_takers(decisions)
    taking: dict[int, set[int]] = defaultdict(set)  # number -> the decisions in force that take the decision back
    for one in select_in_force(decisions):
        for taken in one.takes_back:
            taking[taken.number].add(one.number)
    entries = []
    for decision, row in zip(decisions, rows, strict=True):
        unused = find_unused_faces(decision, finder)
        undone_by = undo_of.get(decision.number)
        waits = "; the next `likeness curate` uses the face" if decision.kind == "accept" and undone_by is None else ""
        missing = tuple(
            f"{location.photo_id[:12]}: {reason}{waits if _is_filtered(location, finder) else ''}"
            for location, reason in unused
        )
        number = decision.number
        entries.append(
            LogEntry(decision, row.made, undone_by, missing, tuple(sorted(taking[number])), number in takers)
        )
    return entries


def _is_filtered(location: FaceLocation, finder: FaceFinder) -> bool:
    """Returns whether a filter dropped the face at a location."""
    face, _ = finder.find(location)
    return face is not None and is_dropped_by_filter(face)


def format_entry(entry: LogEntry) -> dict[str, Any]:
    """Returns an entry as a line of a decision file.

    `likeness decide --file` can record the line in another dataset.
    """
    decision = entry.decision
    line: dict[str, Any] = {"number": decision.number, "kind": decision.kind}
    if decision.kind != "undo":
        line |= encode_faces(decision)
    if decision.name is not None:
        line[NAME_KEYS[decision.kind]] = decision.name
    if decision.undoes is not None:
        line["undoes"] = decision.undoes
    state = describe_state(entry) or "in force"
    return line | {"made": entry.time.isoformat(timespec="seconds"), "state": state, "missing": list(entry.missing)}


def describe_state(entry: LogEntry, noun: str = "") -> str:
    """Returns which decisions take the decision of an entry back, or "" if no decision does.

    `noun` is a text before the numbers of decisions, for example "decision ".
    """
    if entry.undone_by is not None:
        return f"undone by {noun}{entry.undone_by}"
    numbers = ", ".join(map(str, entry.taken_back_by))
    return f"taken back {'' if entry.is_void else 'in part '}by {noun}{numbers}" if numbers else ""


def read_decision_file(path: Path) -> list[dict[str, Any]]:
    """Returns the requests of a decision file: one JSON object on each line. Empty lines are skipped.

    The key `_where` of a request contains the file and the line, for error messages. Raises BadInput if the file cannot
    be read or a line is wrong. The message of the error contains the number of the wrong line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text. Give a UTF-8 file with a JSON object on each line.") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from None
    requests = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: the line is not JSON ({error}). Write a JSON object.") from None
        if not isinstance(request, dict):
            raise BadInput(
                f"{path}, line {number}: the line is not a JSON object. Write an object such as "
                '{"kind": "lock", "faces": [...]}.'
            )
        requests.append({**request, "_where": f"{path}, line {number}: "})
    if not requests:
        raise BadInput(f"{path} contains no decision. Write a JSON object on each line.")
    return requests
