"""Collects what helps a user to judge a face: its measures, its photo, and why the face belongs to its person."""

from __future__ import annotations

from typing import Any

from curate.detection.filter_files import is_dropped_by_filter
from curate.review.people.consent_facts import describe_consent_of_photo
from curate.review.session.view import View, measure_width
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision
from manifests.ledger.decisions.face_finder import find_accepts, find_drops
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.records import Face
from manifests.runtime.uris import is_missing


def describe_face_fully(view: View, face: Face) -> dict[str, Any]:
    """Returns the numbers of a face, why the face has its person, its copies, and the file and consent of its photo."""
    files = view.files.get(face.photo_id, [])
    person = view.people.identity_of.get(face.face_id)
    return {
        "id": face.face_id,
        "person": person,
        "status": face.status,
        "reason": face.reason,
        "why": explain_place(view, face, person) + explain_acceptance(view, face),
        "numbers": list_numbers(view, face),
        "copies": [
            {"id": copy.face_id, "file": files_of[0].name if (files_of := view.files.get(copy.photo_id)) else ""}
            for copy in view.people.find_copies(face.face_id)
        ],
        "path": files[0].path if files else "",
        "consent": describe_consent_of_photo(view, face),
        "is_gone": not files or all(is_missing(file.uri) for file in files),
    }


def explain_place(view: View, face: Face, person: str | None) -> str:
    """Returns a sentence that says why a face is with its person, or why the face is with nobody."""
    if person is None:
        if face.reason is None:
            return "The face belongs to no person."
        drop = find_drops(view.people.log, [face]).get(face.face_id) if face.reason == DROPPED_BY_DECISION else None
        why = f" ({drop.name})" if drop is not None and drop.name else ""
        return f"The face is not in use: {face.reason}{why}."
    decisions = find_decisions(view, face)
    if decisions:
        names = "; ".join(view.desk.lookup.name_decision(one) for one in decisions)
        return f"{names[0].upper()}{names[1:]}."
    row = view.numbers.get(face.face_id)
    if row is None:
        return "A decision that is not applied yet."
    if row.source == "label":
        return "The label of the photo."
    return (
        f"The faces look alike: mean similarity {row.confidence:.2f} to the other faces of the person, and "
        f"{row.confidence - row.margin:.2f} to the nearest other person."
    )


def explain_acceptance(view: View, face: Face) -> str:
    """Returns a sentence about a decision that accepts the face, or "". The sentence begins with a space."""
    accept = find_accepts(select_active(view.people.log), [face]).get(face.face_id)
    if accept is None:
        return ""
    when = "The next `likeness curate` uses the face" if is_dropped_by_filter(face) else "No filter drops the face"
    return f" {when}, because a decision accepts it."


def find_decisions(view: View, face: Face) -> list[Decision]:
    """Returns the decisions in force that name the face itself, and not a copy of it.

    The oldest decision comes first. Decisions of the kinds rename and accept are left out.
    """
    numbers = {
        decision.number
        for decision in select_active(view.people.log)
        if decision.kind not in ("rename", "accept")
        and any(
            place.photo_id == face.photo_id and not place.witness and view.people.finder.find(place)[0] == face
            for part in decision.parts
            for place in part
        )
    }
    return [decision for decision in view.people.log if decision.number in numbers]


def list_numbers(view: View, face: Face) -> list[tuple[str, str]]:
    """Returns the known numbers of a face, each as a pair of its title and its value as text."""
    row = view.numbers.get(face.face_id)
    numbers: list[tuple[str, float | None, str]] = [
        ("Similarity to the person", row.confidence if row else None, "{:.2f}"),
        ("Lead over the next most similar person", row.margin if row else None, "{:.2f}"),
        ("Recognisability (worth)", row.worth if row else None, "{:.2f}"),
        ("Size of the face in the photo", measure_width(face), "{:.0f} px"),
        ("Between the eyes", face.inter_ocular_px, "{:.0f} px"),
        ("Sharpness", face.sharpness, "{:.3f}"),
        ("JPEG blocks", face.blockiness, "{:.2f}"),
        ("Noise", face.noise, "{:.1f}"),
        ("Brightness", face.exposure, "{:.2f}"),
        ("Turned to the side", face.yaw, "{:.0f}°"),
        ("Looks down", face.pitch, "{:.0f}°"),
        ("Outside the photo", None if face.outside is None else 100 * face.outside, "{:.0f}%"),
        ("Score of the detector", face.det_score, "{:.2f}"),
    ]
    return [(title, form.format(value)) for title, value, form in numbers if value is not None]
