"""Follows decisions about consent in memory: the faces of a photo without consent are not in use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from curate.photos.consent import find_consent_problem, find_strictest_consent, read_require_consent
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import find_decided_consent
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face
from manifests.privacy.erase import ERASURE_REASONS


@dataclass(frozen=True)
class ConsentRule:
    """The consent of photos in the sidecar, and whether a consent is required."""

    sidecar: Mapping[str, str | None] = field(default_factory=dict)  # Photo -> the consent in the sidecar.
    require: bool = False  # Whether photos with unknown consent are refused.


def read_consent_rule(ledger: Ledger) -> ConsentRule:
    """Reads the consents of the sidecar, and whether the last curation used `--require-consent`."""
    sidecar = dict(ledger.query("SELECT photo_id, sidecar_consent FROM photos").iter_rows())
    return ConsentRule(sidecar, read_require_consent(ledger))


def find_refused_photos(log: Iterable[Decision], rule: ConsentRule) -> dict[str, str]:
    """Returns photo -> reason, for each photo that a decision names and that may not be used now.

    Photos that only an undone decision names are also checked, because the consent of such a photo may now be unknown.
    """
    log = list(log)
    decided = find_decided_consent(log)
    named = {photo for decision in log for photo in decision.photos}
    reasons = {
        photo: find_consent_problem(find_strictest_consent(rule.sidecar.get(photo), decided.get(photo)), rule.require)
        for photo in named
    }
    return {photo: reason for photo, reason in reasons.items() if reason is not None}


def plan_refusals(
    log: Sequence[Decision],
    rule: ConsentRule,
    finder: FaceFinder,
    allowed: Mapping[str, Face],
    changes: Sequence[Face],
) -> tuple[list[Face], dict[str, Face]]:
    """Returns the new rows of faces whose rows change, and the next value of `allowed`.

    `log` is the whole log with the new decisions. `finder` knows the present rows. `allowed` has the row that each face
    of a refused photo gets if the photo is allowed again. `changes` are the rows that the new decisions of other kinds
    change. A face that was already erased keeps its row.
    """
    rows = {face.face_id: face for face in changes}
    refused = find_refused_photos(log, rule)
    next_allowed: dict[str, Face] = {}
    for face in finder.select_photos(sorted({*refused, *(face.photo_id for face in allowed.values())})):
        row = rows.pop(face.face_id, None) or allowed.get(face.face_id, face)
        if face.photo_id in refused and row.reason not in ERASURE_REASONS:
            next_allowed[face.face_id] = row
            row = replace(row, status="dropped", reason=refused[face.photo_id], duplicate_of=None)
        if row != face:
            rows[face.face_id] = row
    return list(rows.values()), next_allowed
