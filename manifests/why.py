"""What became of a photo and of each face in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.ledger.cleaned_targets import HISTORY_TABLES, describe_history, read_history
from manifests.ledger.decision_log import FaceFinder, parse_decision, select_active
from manifests.ledger.filters import Filter, columns_of_filter
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Face, Label, ListEntry
from manifests.privacy.kept_out import find_kept_out_reason
from manifests.privacy.keys import HIDDEN_PREFIX, hide_uri, read_key
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, is_missing, uri_of

_PREFIX = 6  # characters that begin an id; fewer would name too much


def explain_photo(dataset: Path, photo: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Sentences for a person and rows for a program, for every file that `photo` names.

    `photo` is a path, a file name, or the beginning (six characters or more) of the id of a photo, face or person.
    Raises BadInput where the ledger knows no such file.
    """
    with Ledger.open(dataset) as ledger:
        files = ledger.query("SELECT uri, photo_id, status, reason FROM files ORDER BY uri")
        by_face: set[str] = set()
        if len(photo) >= _PREFIX and photo.isalnum():
            by_face = set(ledger.query("SELECT photo_id FROM faces WHERE starts_with(face_id, ?)", photo)["photo_id"])
        if len(photo) >= _PREFIX and photo.startswith("p-"):
            of_person = "SELECT photo_id FROM faces JOIN memberships USING (face_id) WHERE starts_with(identity_id, ?)"
            by_face |= set(ledger.query(of_person, photo)["photo_id"])
        faces = ledger.query(
            """SELECT f.photo_id, f.face_id, f.status, f.reason, f.duplicate_of, f.inter_ocular_px, m.identity_id,
                      i.name, m.source, m.confidence, s.split, s.reason AS split_reason,
                      (p.target IS NOT NULL) AS is_target,
                      count(DISTINCT CASE WHEN s.status = 'ok' THEN f.photo_id END)
                          OVER (PARTITION BY m.identity_id) AS person_photos
               FROM faces f LEFT JOIN memberships m USING (face_id) LEFT JOIN splits s USING (face_id)
               LEFT JOIN identities i ON i.identity_id = m.identity_id
               LEFT JOIN pairs p ON p.target = f.face_id ORDER BY f.face_id"""
        )
        pairing = ledger.read_detail("pair")
        curated = bool(
            ledger.read_detail("settings")
        )  # a ledger of an older version has no labels, nor decisions with names
        labels = {row.photo_id: row for row in ledger.read_rows(Label)} if curated else {}
        given = {
            row.photo_id: row.refs is not None for row in ledger.read_rows(ListEntry)
        }  # whether it is listed as a target
        named_by = _decisions(ledger) if curated else {}
        versions = read_history(ledger, [row["face_id"] for row in faces.iter_rows(named=True)])
        photos = ledger.query("SELECT photo_id, width, height, source, licence, consent, status, reason FROM photos")
        hidden = hide_uri(read_key(ledger), uri_of(photo))
        kept_out = find_kept_out_reason(ledger, photo) if curated else None
    named = [
        row
        for row in files.iter_rows(named=True)
        if row["uri"] == hidden or _names(row, photo) or row["photo_id"] in by_face
    ]
    if not named and kept_out is not None:
        return [f"{make_printable(photo)}: kept out, {kept_out}"], [
            {"photo": photo, "status": "dropped", "reason": kept_out}
        ]
    # photos whose files were all overwritten answer by id alone
    held = set(files["photo_id"]) - {None}
    for row in photos.iter_rows(named=True):
        if row["photo_id"] not in held and (row["photo_id"] in by_face or _begins(row["photo_id"], photo)):
            named.append({"uri": None, **{key: row[key] for key in ("photo_id", "status", "reason")}})
    if not named:
        if re.fullmatch(r"p-[0-9a-f]{4,}", photo):
            raise BadInput(
                f"{dataset} has no identity {photo} now: it was never there, or is no more since it was merged or "
                "found again under another id. A photo or a face tells who its people are."
            )
        short = f" Of an id, give {_PREFIX} characters or more." if len(photo) < _PREFIX else ""
        if any(uri.startswith(HIDDEN_PREFIX) for uri in files["uri"]):
            short += " What is kept out is known by its whole path alone."
        raise BadInput(
            f"{dataset} has no row for {make_printable(photo)}: it was never offered, or its name is spelt differently."
            f"{short}"
        )
    wanted = {row["photo_id"] for row in named} - {None}
    size = {row["photo_id"]: row for row in photos.iter_rows(named=True) if row["photo_id"] in wanted}
    faces_of: dict[str, list[dict[str, Any]]] = {}
    for row in faces.iter_rows(named=True):
        if row["photo_id"] in wanted:
            faces_of.setdefault(row["photo_id"], []).append(row)
    broken = _broken(dataset, [row for own in faces_of.values() for row in own])
    lines, rows = [], []
    for file in named:
        kept_out_file = file["uri"] is not None and file["uri"].startswith(
            HIDDEN_PREFIX
        )  # only who asks knows its name
        where = (
            "no file holds it any more"
            if file["uri"] is None
            else make_printable(photo if kept_out_file else display_path(file["uri"]))
        )
        there = file["uri"] is not None and not kept_out_file and not is_missing(file["uri"])
        lost = ", the file is no longer there" if not there and file["uri"] and file["photo_id"] else ""
        said = [f"{where}: {_status(file)}{lost}"]
        picture = size.get(file["photo_id"])
        if picture is not None:
            said.append(
                f"  photo {file['photo_id'][:12]}, {picture['width']} x {picture['height']}: {_status(picture)}"
            )
            told = [f"{name} {picture[name]}" for name in ("source", "licence", "consent") if picture[name]]
            said[-1] += "".join(f", {one}" for one in told)
            if (label := labels.get(file["photo_id"])) is not None:
                said[-1] += f", labelled {label.label}{'' if label.truth else ' as a hint'}"
        listed = given.get(file["photo_id"]) if any(given.values()) else None
        own = [
            {
                **row,
                "decisions": named_by.get(row["face_id"], []),
                "listed": listed,
                **{
                    kind: [one for one in versions.get(row["face_id"], []) if one["kind"] == kind]
                    for kind in HISTORY_TABLES
                },
            }
            for row in faces_of.get(file["photo_id"], [])
        ]
        for row in own:
            fate = _face(row, pairing) + broken.get(row["face_id"], "")
            if row["decisions"]:
                several = "s" if len(row["decisions"]) > 1 else ""
                fate += f"; decision{several} " + ", ".join(f"{n} ({kind})" for n, kind in row["decisions"])
            said.append(f"  face {row['face_id'][:12]}, {row['inter_ocular_px']:.0f} px between the eyes: {fate}")
            said += [f"    {sentence}" for sentence in describe_history(versions.get(row["face_id"], []))]
        lines += said
        label = labels.get(file["photo_id"])
        said_of = {"label": label.label if label else None, "label_is_truth": label.truth if label else None}
        rows.append({**file, **said_of, "there": there, "photo": picture, "faces": own})
    return lines, rows


def _decisions(ledger: Ledger) -> dict[str, list[tuple[int, str]]]:
    """face -> number and kind of the decisions in force that hold it, oldest first."""
    finder = FaceFinder(ledger.read_rows(Face))
    found: dict[str, dict[int, str]] = {}
    for act in select_active(parse_decision(row) for row in ledger.read_rows(DecisionRow)):
        for named in (named for part in act.parts for named in part):
            face, _ = finder.find(named)
            if face is not None:
                found.setdefault(face.face_id, {})[act.number] = act.kind
    return {face: list(kinds.items()) for face, kinds in found.items()}


def _broken(dataset: Path, faces: list[dict[str, Any]]) -> dict[str, str]:
    """face -> the filter that removed it and what it found, for faces that a filter removed."""
    said: dict[str, str] = {}
    with Ledger.open(dataset) as ledger:
        sets = ledger.read_details("filters")
        for face in faces:
            of = [(found, rule) for found in sets for rule in found["filters"] if rule["reason"] == face["reason"]]
            if not of:
                continue
            filters, rule = of[0]  # of the newest set
            names = sorted(columns_of_filter(Filter(rule["reason"], rule["sql"])) - {"width", "height"})
            values: dict[str, Any] = {}
            if names:
                asked = f"SELECT {', '.join(names)} FROM faces WHERE face_id = ?"
                values = ledger.query(asked, face["face_id"]).row(0, named=True)
            found = ", ".join(f"{name} {_value(value)}" for name, value in values.items())
            said[face["face_id"]] = (
                f" by {rule['sql']}, filters {filters['name']}, version {filters['version']} ({found})"
            )
    return said


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{part:.4g}" for part in value) + "]"
    return "unknown" if value is None else f"{value:.4g}"


def _names(row: dict[str, Any], photo: str) -> bool:
    if row["uri"].startswith(HIDDEN_PREFIX):
        return False
    path = display_path(row["uri"])
    if row["uri"] == uri_of(photo) or photo in (path.name, str(path)):
        return True
    if os.sep in photo and str(path).endswith(os.sep + photo):
        return True
    return row["photo_id"] is not None and _begins(row["photo_id"], photo)


def _begins(photo_id: str, photo: str) -> bool:
    return len(photo) >= _PREFIX and photo_id.startswith(photo)


def _status(row: dict[str, Any]) -> str:
    return row["status"] if row["reason"] is None else f"{row['status']}, {row['reason']}"


def _face(row: dict[str, Any], pairing: dict[str, Any]) -> str:
    if row["duplicate_of"] is not None:
        return f"dropped, the same picture as face {row['duplicate_of'][:12]}"
    if row["status"] != "ok":
        return _status(row)
    if row["identity_id"] is None:
        return "ok, not grouped yet"
    name = "" if row["name"] is None else f", {row['name']}"
    source = {"review": ", by review", "label": ", by label"}.get(row["source"], "")
    said = f"ok, identity {row['identity_id']}{name} (confidence {row['confidence']:.2f}{source})"
    if row["split_reason"] is not None:
        return f"{said}, set aside: {row['split_reason']}"
    if row["split"] is None:
        return said
    return f"{said}, {row['split']}" + ("" if row["is_target"] else f", no target: {_unpaired(row, pairing)}")


def _unpaired(row: dict[str, Any], pairing: dict[str, Any]) -> str:
    """Why a face in a split is no target; `pairing` is what the stage noted of its rules, empty in older ledgers."""
    if row["listed"] is not None:
        return (
            "an imported list names its references, and none can be used"
            if row["listed"]
            else "no imported list names it as one"
        )
    photos, wanted = row["person_photos"], pairing.get("min_photos", 2)
    if photos < 2:
        return "no other usable photo of this person"
    if photos < wanted:
        return f"too_few_photos, {photos} of this person where --min-photos asked for {wanted}"
    least, policy = pairing.get("min_references", 1), pairing.get("policy", "nearest")
    return f"too_few_references, --min-references asked for {least} by --pairs {policy}"
