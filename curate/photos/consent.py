"""What a sidecar CSV tells of photos: source, licence, consent; and which may not be used for want of consent."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curate.photos.csv_tables import read_csv
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Photo, Record
from manifests.privacy.erase import CONSENT_MISSING, CONSENT_REFUSALS, ERASURE_REASONS, NO_CONSENT, erase_dropped_faces
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import display_path, uri_of

COLUMNS = ("source", "licence", "consent")
CONSENT = ("yes", "no", "withdrawn")  # from the most to the least that is allowed; an empty cell says nothing
MAX_TEXT = 1000  # characters of a source or a licence (ours)


@dataclass(frozen=True)
class Told:
    """A line of the sidecar; None where it says nothing."""

    line: int
    file: str
    source: str | None = None
    licence: str | None = None
    consent: str | None = None


def read_sidecar(table: Path) -> list[Told]:
    """The lines of a CSV with the column `file` and any of source, licence, consent. Raises BadInput with the line."""
    header, lines = read_csv(table, ("file",))
    known = [column for column in COLUMNS if header.count(column) == 1]
    if not known or any(header.count(column) > 1 for column in COLUMNS):
        raise BadInput(
            f"{table}: beside file, the first line must name {', '.join(COLUMNS)} or some of them, each once."
        )
    found: list[Told] = []
    seen: dict[str, int] = {}
    for number, cells in lines:
        said = {
            name: cells[at].strip() for at, name in enumerate(header) if at < len(cells) and name in (*known, "file")
        }
        file = said.pop("file", "")
        if not file:
            raise BadInput(f"{table}, line {number}: a file is needed, its path below the photos or its sha256.")
        if file in seen:
            raise BadInput(f"{table}, line {number}: {file} stands in line {seen[file]} already.")
        seen[file] = number
        consent = said.get("consent", "").lower()
        if consent not in ("", *CONSENT):
            raise BadInput(f"{table}, line {number}: consent is {', '.join(CONSENT)}, or empty; not {said['consent']}.")
        if long := [name for name, text in said.items() if len(text) > MAX_TEXT or not text.isprintable()]:
            raise BadInput(f"{table}, line {number}: {long[0]} is one line of at most {MAX_TEXT} characters.")
        said["consent"] = consent
        found.append(Told(number, file, **{name: text or None for name, text in said.items()}))
    if not found:
        raise BadInput(f"{table} names no file: under the first line, write a line for each.")
    return found


def told_of_photos(
    lines: Sequence[Told], files: Sequence[File], roots: Sequence[Path]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """photo -> column -> what was told, and what is to be told of lines that name no photo here.

    A line's file is a path below one of `roots` (of a member its archive's and its own, `a.zip/b.jpg`), a whole path,
    or a sha256. Where copies of one photo are told different things, the consent that allows least counts, and of
    source and licence the first line.
    """
    held: dict[str, set[str]] = defaultdict(set)  # where a person would look for a file -> its photos
    for file in files:
        if file.photo_id is not None:
            held[uri_of(display_path(file.uri))].add(file.photo_id)
    photos = {photo for found in held.values() for photo in found}
    folders = [root if root.is_dir() else root.parent for root in roots]
    found: dict[str, dict[str, str]] = defaultdict(dict)
    unknown: list[str] = []
    for told in lines:
        if re.fullmatch(r"[0-9a-fA-F]{64}", told.file):
            hits = {told.file.lower()} & photos
        else:
            hits = {photo for folder in folders for photo in held.get(uri_of(folder / told.file), ())}
        if not hits:
            unknown.append(told.file)
        for photo in sorted(hits):
            for name in ("source", "licence"):
                if (text := getattr(told, name)) is not None:
                    found[photo].setdefault(name, text)
            if told.consent is not None:
                before = found[photo].get("consent", CONSENT[0])
                found[photo]["consent"] = max(before, told.consent, key=CONSENT.index)
    if not unknown:
        return dict(found), []
    some = ", ".join(make_printable(name) for name in unknown[:5])
    more = " and others" if len(unknown) > 5 else ""
    return dict(found), [f"The sidecar names {format_count(len(unknown), 'file')} of no photo here: {some}{more}."]


def consent(ledger: Ledger, sidecar: str | None, roots: Sequence[Path], require: bool) -> list[str]:
    """Fill source, licence and consent, and drop the photos that may not be used with all that was made of them.

    What was told before stays where the sidecar says nothing. A photo that may be used again is screened again, from
    its recorded faces. Answers what is to be told.
    """
    said: dict[str, dict[str, str]] = {}
    notices: list[str] = []
    if sidecar is not None:
        said, notices = told_of_photos(read_sidecar(Path(sidecar)), ledger.read_rows(File), roots)
    faces: dict[str, list[Face]] = defaultdict(list)
    for face in ledger.read_rows(Face):
        faces[face.photo_id].append(face)
    rows: list[Record] = []
    again: list[str] = []
    for photo in ledger.read_rows(Photo):
        told: dict[str, Any] = {**said.get(photo.photo_id, {})}
        row = replace(photo, **told)
        reason = barred(row.consent, require)
        if reason is not None:
            row = replace(row, status="dropped", reason=reason)
            rows += [
                replace(face, status="dropped", reason=reason, duplicate_of=None)
                for face in faces[photo.photo_id]
                if face.reason not in (reason, "opted_out")
            ]
        elif photo.reason in (NO_CONSENT, CONSENT_MISSING):
            row = replace(row, status="ok", reason=None)
            if not faces[photo.photo_id]:
                again.append(photo.photo_id)  # whether there are none, or it was never looked at, its mark says
        if row != photo:
            rows.append(row)
    config = {"require_consent": require}
    ledger.record("consent", "all", config, rows, delete=[("stages", "unit", again)] if again else [])
    erase_dropped_faces(ledger)
    return notices


def barred(said: str | None, require: bool) -> str | None:
    """The reason for which a photo may not be used, by what was told of its consent."""
    if said in CONSENT_REFUSALS:
        return NO_CONSENT
    return CONSENT_MISSING if require and said != "yes" else None


def in_use(photos: Mapping[str, Photo]) -> set[str]:
    """The photos that may be looked at."""
    return {photo_id for photo_id, photo in photos.items() if photo.reason not in ERASURE_REASONS}
