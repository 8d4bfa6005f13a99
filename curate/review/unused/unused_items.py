"""Reads the unused files, photos and faces, grouped by reason, and says what a user can do about each reason.

The page shows no picture of a photo whose consent forbids its use, and no picture of a photo in which a person opted
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from curate.decisions.accept import read_gone_photos
from curate.detection.filter_files import RESERVED, is_dropped_by_filter
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision, read_decisions
from manifests.ledger.decisions.face_finder import find_accepts, find_drops
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DOUBTFUL_PERSON, NEAR_DUPLICATE, Face
from manifests.privacy.erase import CONSENT_MISSING, NO_CONSENT, OPTED_OUT, SECRET_PHOTOS
from manifests.privacy.keys import HIDDEN_PREFIX
from manifests.report.sections.intake_section import explain_reason
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path
from manifests.runtime.workers import FAILURES

# Each kind of item has a SELECT that returns a row for each item. The kind "set aside" has the accepted faces that were
# set aside when the people were divided into splits.
_ITEMS = {
    "file": "SELECT md5(uri) AS id, photo_id, NULL AS face_id, reason, uri FROM files WHERE status <> 'ok'",
    "photo": """SELECT p.photo_id AS id, p.photo_id, NULL AS face_id, p.reason, min(u.uri) AS uri
                FROM photos p LEFT JOIN files u USING (photo_id) WHERE p.status <> 'ok' GROUP BY ALL""",
    "face": """SELECT f.face_id AS id, f.photo_id, f.face_id, f.reason, min(u.uri) AS uri
               FROM faces f LEFT JOIN files u USING (photo_id) WHERE f.status <> 'ok' GROUP BY ALL""",
    "set aside": """SELECT f.face_id AS id, f.photo_id, f.face_id, s.reason, min(u.uri) AS uri
                    FROM splits s JOIN faces f USING (face_id) LEFT JOIN files u USING (photo_id)
                    WHERE s.status <> 'ok' AND f.status = 'ok' GROUP BY ALL""",
}
KINDS = tuple(_ITEMS)

# Maps a reason to what a user can do about it. The texts after this table are for all other reasons.
ADVICE = {
    DROPPED_BY_DECISION: "A decision dropped these faces. To use a face after all, take the decision back.",
    NEAR_DUPLICATE: "Another copy of each of these faces is used. You can choose a copy here, or on the page Copies.",
    DOUBTFUL_PERSON: "Look at the person of the face. If the faces show one person, lock the person.",
    "photo_spans_splits": "The photo also shows a person of another split. To use the face, put both people into one "
    "split.",
    "listed_in_another_split": "The imported list puts the person into another split. Change the list.",
    NO_CONSENT: "The sidecar or a decision forbids the use of these photos. No picture is shown.",
    CONSENT_MISSING: "Neither the sidecar nor a decision allows the use of these photos. You can set the consent for "
    "each photo here. No picture is shown.",
    OPTED_OUT: "A person in these photos opted out. No picture is shown.",
    "same_file": "Another file has the same picture, and that file is used.",
    "file_moved": "Another file contains the photo, and that file is used.",
    "file_gone": "If the file comes back, the next curation uses it again.",
    "file_replaced": "Every file of the photo was overwritten.",
    "no_face": "The detector found no face. A larger copy of the photo may help.",
    "excluded": "Change --exclude, and curate again.",
    "not_included": "Change --include, and curate again.",
    "trash": "Move the file out of the bin, and curate again.",
    "system_folder": "Move the file out of the system folder, and curate again.",
}  # fmt: skip
_FILTER_ADVICE = (
    "A filter dropped these faces. To use a face after all, press the button of the face, and curate again. Only a "
    "curation can use the face, because the review loads no face models. To use many of the faces, curate again with "
    "other filters (--filters)."
)
_FAILURE_ADVICE = "No filter dropped these faces. If the cause is removed, the next curation uses the faces."
_FILE_ADVICE = "Likeness could not read these files. Repair or convert a file, and curate again."


@dataclass(frozen=True)
class Reason:
    """A tab of the page. The tab lists the items of one kind that are not used because of the same reason."""

    kind: str
    code: str  # the reason as the ledger records it
    words: str
    count: int
    advice: str


@dataclass(frozen=True)
class UnusedItem:
    """A file, photo or face that is not used."""

    item: str
    face_id: str | None
    photo_id: str | None  # None if the file was never decoded
    file: str
    used: str | None  # For a near-duplicate, the face id of the copy that is used.
    facts: str  # The measures of a face as text.
    can_show: bool  # Whether the page may show a picture.
    # Whether a decision can accept the face: a filter dropped the face, and the page shows a picture of the face.
    can_accept: bool = False
    decision: Decision | None = None  # The decision in force that drops or accepts the face.
    # The consent for the photo, if its consent is the reason why it is not used. "" if the consent is unknown.
    consent: str | None = None


def read_reasons(ledger: Ledger) -> list[Reason]:
    """Returns the reasons why files, photos and faces are not used.

    The reasons are ordered by kind as in KINDS, and then from the most items to the fewest.
    """
    reasons = []
    for kind, items in _ITEMS.items():
        rows = ledger.query(f"SELECT reason, count(*) AS n FROM ({items}) GROUP BY 1 ORDER BY n DESC, 1").rows()
        reasons += [Reason(kind, code, explain_reason(code), n, _advise(kind, code)) for code, n in rows]
    return reasons


def _advise(kind: str, code: str) -> str:
    face_advice = _FAILURE_ADVICE if code in RESERVED or code in FAILURES else _FILTER_ADVICE
    return ADVICE.get(code, _FILE_ADVICE if kind in ("file", "photo") else face_advice)


def read_items(ledger: Ledger, kind: str, code: str, start: int, limit: int) -> list[UnusedItem]:
    """Returns up to `limit` items of a kind and a reason, from number `start` on, ordered by a hash of their ids.

    `kind` is one of KINDS.
    """
    rows = ledger.query(
        f"""SELECT i.*, f.duplicate_of, f.inter_ocular_px, f.sharpness, f.yaw, f.det_score,
                   i.photo_id IN ({SECRET_PHOTOS}) AS secret, coalesce(p.consent, '') AS consent
            FROM ({_ITEMS[kind]}) i LEFT JOIN faces f ON f.face_id = i.face_id
            LEFT JOIN photos p ON p.photo_id = i.photo_id
            WHERE i.reason = ? ORDER BY md5(i.id) LIMIT ? OFFSET ?""",
        code, limit, start,
    ).rows(named=True)  # fmt: skip
    faces = _read_faces(ledger, rows)
    filtered = [face for face in faces if is_dropped_by_filter(face)]
    gone = read_gone_photos(ledger) if filtered else set()
    can_accept = {face.face_id for face in filtered if face.photo_id not in gone}
    decisions = read_decisions(ledger)
    decision_of = find_accepts(select_active(decisions), filtered)
    decision_of |= find_drops(decisions, [face for face in faces if face.reason == DROPPED_BY_DECISION])
    return [
        UnusedItem(
            row["id"],
            row["face_id"],
            row["photo_id"],
            _name_file(row["uri"]),
            row["duplicate_of"],
            _describe_measures(row),
            row["photo_id"] is not None and not row["secret"],
            row["face_id"] in can_accept and not row["secret"],
            decision_of.get(row["face_id"]),
            row["consent"] if kind == "photo" and code in (NO_CONSENT, CONSENT_MISSING) else None,
        )
        for row in rows
    ]


def _read_faces(ledger: Ledger, rows: list[dict[str, Any]]) -> list[Face]:
    return ledger.read_rows(Face, "list_contains(?, face_id)", [row["face_id"] for row in rows if row["face_id"]])


def may_show_photos(ledger: Ledger, photo_ids: Sequence[str]) -> set[str]:
    """Returns those of `photo_ids` that the ledger has and whose pictures the pages may show."""
    known = ledger.query(
        f"SELECT photo_id FROM photos WHERE list_contains(?, photo_id) AND photo_id NOT IN ({SECRET_PHOTOS})",
        list(photo_ids),
    )
    return set(known["photo_id"])


def _name_file(uri: str | None) -> str:
    if uri is None:
        return "no file contains the photo any more"
    return "kept out" if uri.startswith(HIDDEN_PREFIX) else make_printable(display_path(uri).name)


def _describe_measures(row: dict[str, Any]) -> str:
    if row["inter_ocular_px"] is None:
        return ""
    return (
        f"{row['inter_ocular_px']:.0f} px between the eyes, sharpness {row['sharpness']:.2f}, "
        f"turned by {abs(row['yaw']):.0f}°, detector {row['det_score']:.2f}"
    )
