"""Reads the people for the report: their faces, uncertain faces, labels, decisions and the similarities of faces."""

from __future__ import annotations

from typing import Any

from manifests.ledger.decisions.decision_log import Decision, read_decisions
from manifests.ledger.decisions.in_force import find_undos
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Label
from manifests.report.plots import draw_similarities
from manifests.report.thumbnails import make_thumbnail
from manifests.runtime.text import format_count

PEOPLE = 12  # Number of people on the page. The person with the most faces comes first.
FACES = 12  # Number of faces that the page shows for each person.
DOUBTFUL = 24  # Number of doubtful people on the page. The person with the most faces comes first.
UNCERTAIN = 24  # Number of uncertain faces on the page.
DECISIONS = 20  # Number of decisions on the page. The newest decision comes first.

_LARGEST_PEOPLE = """
SELECT m.identity_id, i.name, count(*) AS faces, min(confidence) AS min_confidence, any_value(s.split) AS split
FROM memberships m LEFT JOIN identities i USING (identity_id) LEFT JOIN splits s USING (face_id)
WHERE coalesce(i.doubtful, false) = ? GROUP BY ALL HAVING faces > 1 ORDER BY faces DESC, m.identity_id LIMIT ?"""

_UNCERTAIN_FACES = """
SELECT face_id, identity_id, margin FROM memberships
WHERE identity_id IN (SELECT identity_id FROM memberships GROUP BY 1 HAVING count(*) > 1)
ORDER BY margin, face_id LIMIT ?"""


def read_people(ledger: Ledger, doubtful: bool = False) -> list[dict[str, Any]]:
    """Returns the people with the most faces, with pictures of their faces with the highest confidence.

    With `doubtful`, returns only doubtful people, whose faces are set aside. Otherwise, returns only people who are not
    doubtful.
    """
    people = ledger.query(_LARGEST_PEOPLE, doubtful, DOUBTFUL if doubtful else PEOPLE).rows(named=True)
    for person in people:
        rows = ledger.query(
            """SELECT face_id, confidence FROM memberships WHERE identity_id = ?
               ORDER BY confidence DESC, face_id LIMIT ?""",
            person["identity_id"],
            FACES,
        ).rows()
        person["images"] = [
            (make_thumbnail(crop_path(ledger.dataset, face), 96), f"{confidence:.2f}") for face, confidence in rows
        ]
    return people


def read_uncertain_faces(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Returns the faces with the smallest margins to another person.

    Each item has the picture of the face, the id of its person, and its margin.
    """
    return [
        (make_thumbnail(crop_path(ledger.dataset, face), 96), identity, f"{margin:.2f}")
        for face, identity, margin in ledger.query(_UNCERTAIN_FACES, UNCERTAIN).rows()
    ]


def read_labels(ledger: Ledger) -> tuple[int, int, bool] | None:
    """Returns the number of different labels, the number of photos with labels, and whether labels count as truth."""
    rows = ledger.read_rows(Label)
    if not rows:
        return None
    return len({row.label for row in rows}), len({row.photo_id for row in rows}), rows[0].truth


def read_newest_decisions(ledger: Ledger) -> list[dict[str, Any]]:
    """Returns the newest decisions. `undone_by` is the number of the undo, or None if the decision is not undone."""
    decisions = read_decisions(ledger)
    undo_of = find_undos(decisions)
    return [
        {
            "number": decision.number,
            "kind": decision.kind,
            "faces": len({(face.photo_id, face.box) for part in decision.parts for face in part}) or "",
            "name": _describe_name(decision),
            "undone_by": undo_of.get(decision.number),
            "undoes": decision.undoes,
        }
        for decision in decisions[: -DECISIONS - 1 : -1]
    ]


def _describe_name(decision: Decision) -> str:
    """Returns the text of a decision: a name, a split, a reason, or the consent for some photos."""
    if decision.photos:
        return f"{decision.name} for {format_count(len(decision.photos), 'photo')}"
    return f"({decision.name})" if decision.kind == "drop" and decision.name else decision.name or ""


def draw_similarity_histogram(ledger: Ledger) -> str:
    """Returns a histogram of the cosines between faces in the last grouping, or "" before the first grouping."""
    detail = ledger.read_detail("group")
    if "histogram" not in detail:
        return ""
    bins = detail["histogram"]
    return draw_similarities(bins["edges"], bins["within"], bins["between"], detail["threshold"])
