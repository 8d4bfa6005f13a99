"""The stage `consent` reads source, licence and consent of photos from a CSV, and drops photos without consent.

Decisions of the kind consent also set the consent of photos. If the CSV and a decision disagree about a photo, the
stricter value counts. `likeness decide` applies such decisions with the same function as the stage.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from curate.photos.csv_tables import read_csv
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import Decision, read_decisions
from manifests.ledger.decisions.in_force import find_decided_consent
from manifests.ledger.ledger import Deletion, Ledger
from manifests.ledger.records import Face, File, Photo, Record
from manifests.privacy.erase import (
    CONSENT_MISSING,
    CONSENT_REFUSALS,
    ERASURE_REASONS,
    NO_CONSENT,
    OPTED_OUT,
    erase_dropped_faces,
)
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import display_path, normalise_name
from manifests.stores.store_path import StorePath

COLUMNS = ("source", "licence", "consent")
# Sorted by strictness: the last value is the strictest. An empty cell means that the consent is unknown.
CONSENT = ("yes", "no", "withdrawn")
MAX_TEXT = 1000  # largest number of characters of a source or a licence (ours)


@dataclass(frozen=True)
class SidecarLine:
    """One line of the CSV. None stands for an empty cell, or for a column that the CSV does not have."""

    line: int
    file: str
    source: str | None = None
    licence: str | None = None
    consent: str | None = None


def read_sidecar(table: Path) -> list[SidecarLine]:
    """Returns the lines of a CSV with the column `file` and at least one of source, licence and consent.

    Raises BadInput if a line is wrong. The error contains the number of the line.
    """
    header, rows = read_csv(table, ("file",))
    columns = [column for column in COLUMNS if header.count(column) == 1]
    if not columns or any(header.count(column) > 1 for column in COLUMNS):
        raise BadInput(
            f"{table}: the first line must name the column file and at least one of {', '.join(COLUMNS)}. Name each "
            "column once."
        )
    lines: list[SidecarLine] = []
    line_of_file: dict[str, int] = {}
    for number, cells in rows:
        texts = {
            name: cells[at].strip() for at, name in enumerate(header) if at < len(cells) and name in (*columns, "file")
        }
        file = texts.pop("file", "")
        if not file:
            raise BadInput(
                f"{table}, line {number}: the cell in the column file is empty. Write the file's path below the "
                "folder of photos, or its sha256."
            )
        if file in line_of_file:
            raise BadInput(
                f"{table}, line {number}: {file} is already in line {line_of_file[file]}. Keep only one of the lines."
            )
        line_of_file[file] = number
        consent = texts.get("consent", "").lower()
        if consent not in ("", *CONSENT):
            raise BadInput(
                f"{table}, line {number}: the consent {texts['consent']} is unknown. Write {', '.join(CONSENT)}, or "
                "nothing."
            )
        if wrong := [name for name, text in texts.items() if len(text) > MAX_TEXT or not text.isprintable()]:
            raise BadInput(
                f"{table}, line {number}: the {wrong[0]} is longer than {MAX_TEXT} characters, or has a character that "
                "is not printable, such as the end of a line. Write one line of printable characters."
            )
        texts["consent"] = consent
        lines.append(SidecarLine(number, file, **{name: text or None for name, text in texts.items()}))
    if not lines:
        raise BadInput(f"{table} names no file. Below the first line, write one line for each file.")
    return lines


def match_sidecar(
    lines: Sequence[SidecarLine], files: Sequence[File], roots: Sequence[Path]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Returns the cells of each photo (photo -> column -> text), and a notice about lines that match no photo.

    The `file` of a line is a path below one of `roots`, an absolute path, or a sha256. For a member of an archive, the
    path is the archive's path followed by the member's path, as in `a.zip/b.jpg`. Paths are compared after Unicode
    normalisation, and backslashes count as slashes. Several files may have equal paths after the normalisation. A line
    that refuses consent applies to all files with an equal path. Any other line applies to the file whose path is
    exactly the path in the line. If there is no such file, the line applies to all files with an equal path. If several
    lines match one photo, the photo gets the strictest consent, the first source and the first licence.
    """
    photos_at: dict[str, set[str]] = defaultdict(set)  # Path, as a user would write it -> photos.
    similar_at: dict[str, set[str]] = defaultdict(set)  # Normalised path -> photos.
    for file in files:
        if file.photo_id is not None:
            path = display_path(file.uri)
            photos_at[str(path)].add(file.photo_id)
            similar_at[normalise_name(path)].add(file.photo_id)
    # a sha256 may be the hash of the present file, or of the file from which the photo was read first
    photo_of = {photo: photo for photos in photos_at.values() for photo in photos}
    photo_of |= {file.sha256: file.photo_id for file in files if file.sha256 and file.photo_id is not None}
    folders = {root.absolute() if root.is_dir() else root.absolute().parent for root in roots}
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    unmatched_files: list[str] = []
    for line in lines:
        if re.fullmatch(r"[0-9a-fA-F]{64}", line.file):
            photos = {photo_of[line.file.lower()]} if line.file.lower() in photo_of else set()
        else:
            names = {_tidy(folder / line.file) for folder in folders}
            photos = set().union(*(photos_at[name] for name in names if name in photos_at))
            if not photos or line.consent in CONSENT_REFUSALS:
                places = list_places(line.file, roots)
                photos |= set().union(*(similar_at[place] for place in places if place in similar_at))
        if not photos:
            unmatched_files.append(line.file)
        for photo in sorted(photos):
            for name in ("source", "licence"):
                if (text := getattr(line, name)) is not None:
                    cells[photo].setdefault(name, text)
            if line.consent is not None:
                earlier = cells[photo].get("consent", CONSENT[0])
                cells[photo]["consent"] = max(earlier, line.consent, key=CONSENT.index)
    if not unmatched_files:
        return dict(cells), []
    examples = ", ".join(make_printable(name) for name in unmatched_files[:5]) + (
        " and others" if len(unmatched_files) > 5 else ""
    )
    return dict(cells), [f"--sidecar: no photo matches {format_count(len(unmatched_files), 'file name')}: {examples}."]


def list_places(name: str, roots: Sequence[Path]) -> list[str]:
    """Returns the normalised absolute paths that a name in a sidecar may mean, one for each folder of `roots`."""
    folders = {root if root.is_dir() else root.parent for root in roots}
    return sorted({normalise_path(folder / name.replace("\\", "/")) for folder in folders})


def normalise_path(path: Path) -> str:
    """Returns the absolute path in the form in which paths are compared."""
    return normalise_name(_tidy(path.absolute()))


def _tidy(path: Path) -> str:
    """Returns a local path without `..` and without repeated slashes, or the unchanged address of a file in a store."""
    return str(path) if isinstance(path, StorePath) else os.path.normpath(path)


@dataclass(frozen=True)
class ConsentChanges:
    """What the consent of the photos changes in the ledger. Every row differs from the row in the ledger."""

    photos: list[Photo] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)  # Dropped faces of photos that may not be used.
    lost: set[str] = field(default_factory=set)  # Photos that may not be used any more.
    regained: set[str] = field(default_factory=set)  # Photos that may be used again.
    # Photos of `regained` in which the detector looks for faces again.
    to_detect: list[str] = field(default_factory=list)
    # Sentences about photos that lose their consent but have copies in use.
    notices: list[str] = field(default_factory=list)

    @property
    def deletions(self) -> list[Deletion]:
        """The completion marks of the photos of `to_detect`. After these marks are deleted, the stage `detect` searches
        the photos again."""
        return [("stages", "unit", self.to_detect)] if self.to_detect else []


def apply_consent(ledger: Ledger, sidecar: str | None, roots: Sequence[Path], require: bool) -> list[str]:
    """Records source, licence and consent of photos, and drops the photos whose use is not allowed.

    The crops and embeddings of a dropped photo's faces are erased. If the CSV does not name a photo, the photo keeps
    the values of earlier runs. If a dropped photo may be used again, the recorded faces of the photo are screened
    again. Returns notices about lines of the CSV that match no photo, and about copies of dropped photos.
    """
    cells: dict[str, dict[str, str]] = {}
    notices: list[str] = []
    if sidecar is not None:
        cells, notices = match_sidecar(read_sidecar(Path(sidecar)), ledger.read_rows(File), roots)
    changes = compute_consent(ledger, read_decisions(ledger), require, cells)
    rows: list[Record] = [*changes.photos, *changes.faces]
    config = {"require_consent": require}
    ledger.record("consent", "all", config, rows, delete=changes.deletions, detail=config)
    erase_dropped_faces(ledger)
    return [*notices, *changes.notices]


def read_require_consent(ledger: Ledger) -> bool:
    """Returns whether the last curation dropped the photos without a known consent (`--require-consent`)."""
    return bool(ledger.read_detail("consent").get("require_consent", False))


def compute_consent(
    ledger: Ledger, decisions: Sequence[Decision], require: bool, cells: Mapping[str, Mapping[str, str]] | None = None
) -> ConsentChanges:
    """Returns what the sidecar and the decisions about consent change. Nothing is written.

    `decisions` is the whole log. `cells` has the new cells of the sidecar, as `match_sidecar` returns them. If
    `require` is true, a photo whose consent is unknown may not be used.
    """
    decided, cells = find_decided_consent(decisions), cells or {}
    faces: dict[str, list[Face]] = defaultdict(list)
    for face in ledger.read_rows(Face):
        faces[face.photo_id].append(face)
    changes = ConsentChanges()
    in_use, refused = set[str](), set[str]()  # photos that may be used now, and photos that lose their consent now
    for photo in ledger.read_rows(Photo):
        told = dict(cells.get(photo.photo_id, {}))
        sidecar_consent = told.pop("consent", photo.sidecar_consent)
        consent = find_strictest_consent(sidecar_consent, decided.get(photo.photo_id))
        row = replace(photo, **cast(Any, told), sidecar_consent=sidecar_consent, consent=consent)
        reason = find_consent_problem(consent, require)
        was_refused = photo.reason in (NO_CONSENT, CONSENT_MISSING)
        if reason is not None:
            row = replace(row, status="dropped", reason=reason)
            changes.faces.extend(
                replace(face, status="dropped", reason=reason, duplicate_of=None)
                for face in faces[photo.photo_id]
                if face.reason not in (reason, OPTED_OUT)
            )
            if not was_refused:
                changes.lost.add(photo.photo_id)
        elif was_refused:
            row = replace(row, status="ok", reason=None)
            changes.regained.add(photo.photo_id)
            if not faces[photo.photo_id]:
                # The ledger does not say whether a photo without faces was ever searched, so the photo is searched now.
                changes.to_detect.append(photo.photo_id)
        if row.status == "ok":
            in_use.add(photo.photo_id)
        elif row.reason == NO_CONSENT and photo.reason != NO_CONSENT:
            refused.add(photo.photo_id)
        if row != photo:
            changes.photos.append(row)
    if refused:
        changes.notices.extend(_report_copies(ledger.read_rows(File), refused, in_use, faces))
    return changes


def find_strictest_consent(sidecar: str | None, decided: str | None) -> str | None:
    """Returns the consent that counts for a photo: the stricter of the sidecar's value and of the decided value.

    None stands for an unknown consent, and any known value takes precedence over it.
    """
    known = [value for value in (sidecar, decided) if value is not None]
    return max(known, key=CONSENT.index, default=None)


def _report_copies(
    files: Sequence[File], refused: Set[str], in_use: Set[str], faces: Mapping[str, Sequence[Face]]
) -> list[str]:
    """Returns a notice if photos in `refused` have copies among the photos in `in_use`, or []."""
    photos_of: dict[str, set[str]] = defaultdict(set)  # representative -> photos with this face or a copy of it
    for photo, own in faces.items():
        for face in own:
            photos_of[face.duplicate_of or face.face_id].add(photo)
    copies = {photo for photos in photos_of.values() if photos & refused for photo in photos & in_use}
    names = sorted(str(display_path(file.uri)) for file in files if file.photo_id in copies)
    if not names:
        return []
    copies_stay = f"{format_count(len(names), 'copy', 'copies')} of photos without consent"
    verb = "stays" if len(names) == 1 else "stay"
    return [
        f"{copies_stay} {verb} in use, for example {make_printable(names[0])}. If the consent for copies is refused "
        "too, write a line for each copy into the sidecar, or run `likeness manifest optout`."
    ]


def find_consent_problem(consent: str | None, require: bool) -> str | None:
    """Returns why a photo with the consent `consent` must not be used, or None if the photo may be used."""
    if consent in CONSENT_REFUSALS:
        return NO_CONSENT
    return CONSENT_MISSING if require and consent != "yes" else None


def find_usable_photos(photos: Mapping[str, Photo]) -> set[str]:
    """Returns the ids of the photos that may be used."""
    return {photo_id for photo_id, photo in photos.items() if photo.reason not in ERASURE_REASONS}
