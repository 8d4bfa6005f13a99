"""Describes what happened to a face: why it is not in use, whom it shows, and why it is not a target."""

from __future__ import annotations

from typing import Any

from manifests.ledger.decisions.decision_log import Decision


def describe_face(row: dict[str, Any], pairing: dict[str, Any]) -> str:
    """Returns a text that says what happened to a face. `pairing` has the rules by which references were chosen."""
    if row["duplicate_of"] is not None:
        why = f", which is used because this copy {row['worse']}" if row["worse"] else ""
        return f"dropped, the same picture as face {row['duplicate_of'][:12]}{why}"
    if row["status"] != "ok":
        return format_status(row)
    if row["identity_id"] is None:
        return "ok, not grouped yet"
    name = "" if row["name"] is None else f", {row['name']}"
    source = {"review": ", by review", "label": ", by label"}.get(row["source"], "")
    text = f"ok, identity {row['identity_id']}{name} (confidence {row['confidence']:.2f}{source})"
    if row["split_reason"] is not None:
        return f"{text}, set aside: {row['split_reason']}"
    if row["split"] is None:
        return text
    if row["is_target"]:
        return f"{text}, {row['split']}"
    return f"{text}, {row['split']}, not a target: {_describe_unpaired(row, pairing)}"


def describe_decision(decision: Decision, face: dict[str, Any], overridden: str | None) -> str:
    """Returns a text with the number and the kind of a decision that names a face.

    The text of a drop ends with its reason, and the text of an accept ends with its effect. `overridden` is the reason
    of the filter that would drop the face without the decision.
    """
    note = ""
    if decision.kind == "drop" and decision.name:
        note = f": {decision.name}"
    elif decision.kind == "accept" and overridden is not None:
        if face["status"] == "ok" or face["duplicate_of"] is not None:
            note = f": without this decision, the filter {overridden} drops the face"
        elif face["reason"] == overridden:
            note = ": the next `likeness curate` uses the face"
    return f"{decision.number} ({decision.kind}{note})"


def _describe_unpaired(row: dict[str, Any], pairing: dict[str, Any]) -> str:
    """Returns the reason why a face in a split is not a target.

    `pairing` has the rules by which references were chosen.
    """
    if row["listed"] is not None:
        return (
            "an imported list names references of this face, but none of the references can be used"
            if row["listed"]
            else "no imported list names this face as a target"
        )
    if row["no_target"] is not None:
        return str(row["no_target"])
    photos, min_photos = row["person_photos"], pairing.get("min_photos", 2)
    if photos < 2:
        worth = "" if row["worth"] is None else f" (worth of the face {row['worth']:.2f}, docs/grouping.md)"
        return f"the person has no other usable photo{worth}"
    if photos < min_photos:
        return f"too_few_photos, this person has {photos} and --min-photos is {min_photos}"
    references, policy = pairing.get("min_references", 1), pairing.get("policy", "random")
    return f"too_few_references, --min-references is {references} with --pairs {policy}"


def format_status(row: dict[str, Any]) -> str:
    """Returns the status of a file, a photo or a face, and the reason if there is one."""
    return row["status"] if row["reason"] is None else f"{row['status']}, {row['reason']}"
