"""Follows decisions about consent in memory: the faces of a photo without consent are not in use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from manifests.ledger.decision_log import Decision, FaceFinder, find_decided_consent
from manifests.ledger.records import Face
from manifests.privacy.erase import CONSENT_REFUSALS, ERASURE_REASONS, NO_CONSENT


def find_refused_photos(log: Iterable[Decision]) -> set[str]:
    """Returns the photos whose use the newest decision in force forbids."""
    return {photo for photo, consent in find_decided_consent(log).items() if consent in CONSENT_REFUSALS}


def plan_refusals(
    log: Sequence[Decision], finder: FaceFinder, allowed: Mapping[str, Face], changes: Sequence[Face]
) -> tuple[list[Face], dict[str, Face]]:
    """Returns the new rows of faces whose rows change, and the next value of `allowed`.

    `log` is the whole log with the new decisions. `finder` knows the present rows. `allowed` has the row that each face
    of a refused photo gets if the photo is allowed again. `changes` are the rows that the new decisions of other kinds
    change. A face that was erased already keeps its row.
    """
    rows = {face.face_id: face for face in changes}
    refused = find_refused_photos(log)
    next_allowed: dict[str, Face] = {}
    for face in finder.select_photos(sorted(refused | {face.photo_id for face in allowed.values()})):
        row = rows.pop(face.face_id, None) or allowed.get(face.face_id, face)
        if face.photo_id in refused and row.reason not in ERASURE_REASONS:
            next_allowed[face.face_id] = row
            row = replace(row, status="dropped", reason=NO_CONSENT, duplicate_of=None)
        if row != face:
            rows[face.face_id] = row
    return list(rows.values()), next_allowed
