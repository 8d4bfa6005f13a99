"""Explains what Likeness did with a photo and with each face in it, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.ledger.cleaned_targets import HISTORY_TABLES, describe_history, read_history
from manifests.ledger.decisions.applied_decisions import describe_unapplied_decisions
from manifests.ledger.decisions.decision_log import Decision, read_decisions
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.ledger import Ledger
from manifests.ledger.original_copies import Copy, choose_original
from manifests.ledger.records import Face, Label, ListEntry, Photo
from manifests.privacy.kept_out import find_kept_out_reason
from manifests.privacy.keys import HIDDEN_PREFIX, hide_uri, read_key
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, is_end_of_path, is_missing, uri_of
from manifests.stores.addresses import starts_like_address
from manifests.stores.failures import MEANINGS
from manifests.why.describe_face import describe_decision, describe_face, format_status
from manifests.why.filter_facts import describe_filters, find_overridden_filters

_PREFIX = 6  # A user may shorten an id to this many characters (ours). Fewer characters would match too many ids.

_FILES = "SELECT uri, photo_id, status, reason FROM files ORDER BY uri"
_PHOTOS = """
    SELECT photo_id, width, height, source, licence, consent, sidecar_consent, status, reason,
        taken::VARCHAR AS taken, taken_offset, taken_from, taken_doubt FROM photos"""
_PHOTOS_OF_FACE = "SELECT photo_id FROM faces WHERE starts_with(face_id, ?)"
_PHOTOS_OF_PERSON = "SELECT photo_id FROM faces JOIN memberships USING (face_id) WHERE starts_with(identity_id, ?)"
# person_photos: the number of distinct photos in which the person has a face in a split
_FACES = """
    SELECT f.photo_id, f.face_id, f.status, f.reason, f.duplicate_of, f.inter_ocular_px, m.identity_id,
        i.name, m.source, m.confidence, m.worth, s.split, s.reason AS split_reason, s.no_target,
        (p.target IS NOT NULL) AS is_target,
        count(DISTINCT CASE WHEN s.status = 'ok' THEN f.photo_id END)
            OVER (PARTITION BY m.identity_id) AS person_photos
    FROM faces f LEFT JOIN memberships m USING (face_id) LEFT JOIN splits s USING (face_id)
    LEFT JOIN identities i ON i.identity_id = m.identity_id
    LEFT JOIN pairs p ON p.target = f.face_id ORDER BY f.face_id"""

# Selects the photos that show one person twice.
_REPEATING_PHOTOS = """
    SELECT DISTINCT photo_id FROM faces f JOIN memberships m ON m.face_id = coalesce(f.duplicate_of, f.face_id)
    GROUP BY photo_id, identity_id HAVING count(*) > 1"""


@dataclass(frozen=True)
class _Facts:
    """The facts from which `explain_photo` makes its sentences."""

    photos: dict[str, dict[str, Any]]  # Maps a photo id to the row of the photo.
    faces: dict[str, list[dict[str, Any]]]  # Maps a photo id to the rows of the photo's faces.
    labels: dict[str, list[Label]]  # Maps a photo id to the photo's labels.
    # Maps a photo id in an imported list to whether the list names references for the photo.
    is_target: dict[str, bool]
    decisions: dict[str, list[Decision]]  # Maps the id of a face or photo to its decisions in force, the oldest first.
    history: dict[str, list[dict[str, Any]]]  # Maps a face id to the history of the face (see `read_history`).
    worse: dict[str, str]  # Maps the face id of a near-duplicate to the reason why another copy is the original.
    filters: dict[str, str]  # Maps a face id to a text about the filter that removed the face.
    # Maps the id of an accepted face (decision `accept`) to the reason of the filter that would drop the face.
    overridden: dict[str, str]
    pairing: dict[str, Any]  # The rules by which references were chosen.


def explain_photo(dataset: Path, photo: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns sentences for the user about each file that `photo` names.

    Also returns the same facts as rows for a program.

    `photo` is a path, a file name, or the first six or more characters of the id of a photo, a face or a person.
    Raises BadInput if the ledger has no row for `photo`.
    """
    with Ledger.open(dataset) as ledger:
        files = ledger.query(_FILES).rows(named=True)
        photos = {row["photo_id"]: row for row in ledger.query(_PHOTOS).iter_rows(named=True)}
        matches = _find_files(ledger, photo, files, photos)
        if not matches:
            if (reason := find_kept_out_reason(ledger, photo)) is not None:
                row = {"photo": photo, "status": "dropped", "reason": reason}
                return [f"{make_printable(photo)}: kept out, {reason}"], [row]
            raise BadInput(_describe_missing(dataset, photo, files))
        facts = _read_facts(ledger, {row["photo_id"] for row in matches} - {None}, photos)
        unapplied = describe_unapplied_decisions(ledger)
    lines, rows = [], []
    for file in matches:
        file_lines, row = _explain_file(file, photo, facts)
        lines += file_lines
        rows.append(row)
    return [*lines, *([] if unapplied is None else [f"Note: {unapplied}"])], rows


def _find_files(
    ledger: Ledger, photo: str, files: list[dict[str, Any]], photos: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the rows of the files that `photo` names.

    If all files of a photo were overwritten, returns a row without a uri for the photo.
    """
    by_id: set[str] = set()
    if len(photo) >= _PREFIX and photo.isalnum():
        by_id |= set(ledger.query(_PHOTOS_OF_FACE, photo)["photo_id"])
    if len(photo) >= _PREFIX and photo.startswith("p-"):
        by_id |= set(ledger.query(_PHOTOS_OF_PERSON, photo)["photo_id"])
    hidden = hide_uri(read_key(ledger), uri_of(photo))
    matches = [row for row in files if row["uri"] == hidden or _matches(row, photo) or row["photo_id"] in by_id]
    with_file = {row["photo_id"] for row in files}
    matches += [
        {"uri": None, "photo_id": photo_id, "status": row["status"], "reason": row["reason"]}
        for photo_id, row in photos.items()
        if photo_id not in with_file and (photo_id in by_id or _starts_id(photo_id, photo))
    ]
    return matches


def _describe_missing(dataset: Path, photo: str, files: list[dict[str, Any]]) -> str:
    if re.fullmatch(r"p-[0-9a-f]{4,}", photo):
        return (
            f"{dataset} has no identity {photo} now: the id never existed, or it ended when people were merged or "
            "grouped again. Give a photo or a face to see the ids of the people."
        )
    message = (
        f"{dataset} has no row for {make_printable(photo)}: `likeness curate` never read the file, or the name is "
        "spelt differently."
    )
    if len(photo) < _PREFIX:
        message += f" Give at least {_PREFIX} characters of an id."
    if any(row["uri"].startswith(HIDDEN_PREFIX) for row in files):
        message += " To find a file that is kept out, give the whole path."
    return message


def _read_facts(ledger: Ledger, photo_ids: set[str], photos: dict[str, dict[str, Any]]) -> _Facts:
    faces: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.query(_FACES).iter_rows(named=True):
        if row["photo_id"] in photo_ids:
            faces.setdefault(row["photo_id"], []).append(row)
    all_faces = [row for rows in faces.values() for row in rows]
    return _Facts(
        photos={photo_id: photos[photo_id] for photo_id in photo_ids if photo_id in photos},
        faces=faces,
        labels=_group_by_photo(ledger.read_rows(Label)),
        is_target={row.photo_id: row.refs is not None for row in ledger.read_rows(ListEntry)},
        decisions=_read_decisions_by_id(ledger),
        history=read_history(ledger, [row["face_id"] for row in all_faces]),
        worse=_compare_copies(ledger, {row["duplicate_of"] for row in all_faces} - {None}),
        filters=describe_filters(ledger, all_faces),
        overridden=find_overridden_filters(ledger, all_faces),
        pairing=ledger.read_detail("pair"),
    )


def _group_by_photo(labels: list[Label]) -> dict[str, list[Label]]:
    grouped: dict[str, list[Label]] = {}
    for row in labels:
        grouped.setdefault(row.photo_id, []).append(row)
    return grouped


def _compare_copies(ledger: Ledger, originals: set[str]) -> dict[str, str]:
    """Returns a dict that maps the face id of a near-duplicate to the reason why it is not the original.

    A reason continues a sentence that begins with "this copy". A near-duplicate that `choose_original` would choose now
    is not in the dict.
    """
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)} if originals else {}
    repeating = set(ledger.query(_REPEATING_PHOTOS)["photo_id"]) if originals else set()
    reasons: dict[str, str] = {}
    for original in sorted(originals):
        faces = ledger.read_rows(Face, "face_id = ? OR duplicate_of = ?", original, original)
        _, worse = choose_original([Copy(face, photos[face.photo_id], face.photo_id in repeating) for face in faces])
        reasons |= {face.face_id: reason for face, reason in zip(faces, worse, strict=True) if reason}
    return reasons


def _read_decisions_by_id(ledger: Ledger) -> dict[str, list[Decision]]:
    """Returns a dict that maps the id of a face or photo to the decisions that name it and still have an effect on it.

    The decisions have the form in which they were recorded. The oldest decision comes first.
    """
    finder, log = FaceFinder(ledger.read_rows(Face)), read_decisions(ledger)
    recorded = {decision.number: decision for decision in log}
    decisions: dict[str, dict[int, Decision]] = {}
    for decision in select_active(log):
        for location in (location for part in decision.parts for location in part):
            face, _ = finder.find(location)
            if face is not None:
                decisions.setdefault(face.face_id, {})[decision.number] = recorded[decision.number]
        for photo_id in decision.photos:
            decisions.setdefault(photo_id, {})[decision.number] = recorded[decision.number]
    return {own_id: list(own.values()) for own_id, own in decisions.items()}


def _explain_file(file: dict[str, Any], photo: str, facts: _Facts) -> tuple[list[str], dict[str, Any]]:
    """Returns the sentences about one file, and the facts as a dict."""
    uri, photo_id = file["uri"], file["photo_id"]
    hidden = uri is not None and uri.startswith(HIDDEN_PREFIX)
    exists = uri is not None and not hidden and not is_missing(uri)
    # the ledger does not contain the name of a hidden file, so the name is the one that the user gave
    name = photo if hidden or uri is None else display_path(uri)
    place = "no file contains the photo any more" if uri is None else make_printable(name)
    missing = ", the file does not exist any more" if not exists and uri and photo_id else ""
    cause = f" ({MEANINGS[file['reason']]})" if starts_like_address(uri or "") and file["reason"] in MEANINGS else ""
    lines = [f"{place}: {format_status(file)}{cause}{missing}"]

    picture, labels = facts.photos.get(photo_id), facts.labels.get(photo_id, [])
    if picture is not None:
        line = f"  photo {photo_id[:12]}, {picture['width']} x {picture['height']}: {format_status(picture)}"
        line += "".join(f", {name} {picture[name]}" for name in ("source", "licence", "consent") if picture[name])
        newest = facts.decisions.get(photo_id, [])[-1:]
        if picture["consent"] != picture["sidecar_consent"]:
            line += "".join(f" (decision {one.number})" for one in newest if one.name == picture["consent"])
        line += _describe_date(picture)
        if labels:
            hint = "" if labels[0].truth else " as a hint" if len(labels) == 1 else " as hints"
            line += f", labelled {' and '.join(label.label for label in labels)}{hint}"
        lines.append(line)

    listed = facts.is_target.get(photo_id) if any(facts.is_target.values()) else None
    faces = []
    for row in facts.faces.get(photo_id, []):
        face_id = row["face_id"]
        history = facts.history.get(face_id, [])
        decisions = facts.decisions.get(face_id, [])
        by_kind = {kind: [entry for entry in history if entry["kind"] == kind] for kind in HISTORY_TABLES}
        worse = facts.worse.get(face_id) if row["duplicate_of"] is not None else None
        drops = [one.name for one in decisions if one.kind == "drop"]
        face = {**row, "worse": worse, "decisions": [(one.number, one.kind) for one in decisions], "listed": listed}
        face |= {"drop_reason": drops[-1] if drops else None, **by_kind}
        text = describe_face(face, facts.pairing) + facts.filters.get(face_id, "")
        if decisions:
            text += f"; decision{'s' if len(decisions) > 1 else ''} "
            text += ", ".join(describe_decision(one, face, facts.overridden.get(face_id)) for one in decisions)
        lines.append(f"  face {face_id[:12]}, {row['inter_ocular_px']:.0f} px between the eyes: {text}")
        lines += [f"    {sentence}" for sentence in describe_history(history)]
        faces.append(face)
    label_facts = [{"label": row.label, "truth": row.truth, "box": row.box} for row in labels]
    return lines, {**file, "labels": label_facts, "there": exists, "photo": picture, "faces": faces}


def _describe_date(photo: dict[str, Any]) -> str:
    """Returns a text with the date of a photo, or "" if its files have no date."""
    if photo["taken_from"] is None:
        return ""
    offset = photo["taken_offset"]
    zone = "" if offset is None else f" UTC{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    date = "date" if photo["taken"] is None else f"taken {photo['taken']}{zone}"
    doubt = "" if photo["taken_doubt"] is None else f", not trusted: {photo['taken_doubt']}"
    return f", {date} ({photo['taken_from']}{doubt})"


def _matches(row: dict[str, Any], photo: str) -> bool:
    """Returns whether `photo` is the path of the file, the end of the path, or the beginning of the photo id."""
    if row["uri"].startswith(HIDDEN_PREFIX):
        return False
    path = display_path(row["uri"])
    if row["uri"] == uri_of(photo) or is_end_of_path(photo, path):
        return True
    return row["photo_id"] is not None and _starts_id(row["photo_id"], photo)


def _starts_id(photo_id: str, photo: str) -> bool:
    return len(photo) >= _PREFIX and photo_id.startswith(photo)
