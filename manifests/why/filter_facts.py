"""Says which filter dropped a face, and which filter would drop a face that a decision accepts."""

from __future__ import annotations

from typing import Any

from manifests.ledger.decisions.decision_log import read_decisions
from manifests.ledger.decisions.face_finder import find_accepts
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.filters import Filter, FilterSet, find_removals, list_filter_columns, list_photo_facts
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Photo


def describe_filters(ledger: Ledger, faces: list[dict[str, Any]]) -> dict[str, str]:
    """Returns a dict that maps a face id to a text about the filter that removed the face, with the face's measures."""
    texts: dict[str, str] = {}
    filter_sets = ledger.read_details("filters")  # the newest first
    for face in faces:
        rules = [
            (filter_set, rule)
            for filter_set in filter_sets
            for rule in (*filter_set["filters"], *filter_set.get("test_filters", ()))
            if rule["reason"] == (face["reason"] or face["no_target"])
        ]
        if not rules:
            continue
        filter_set, rule = rules[0]
        names = sorted(list_filter_columns(Filter(rule["reason"], rule["sql"])) - {"width", "height"})
        values: dict[str, Any] = {}
        if names:
            sql = f"SELECT {', '.join(names)} FROM faces WHERE face_id = ?"
            values = ledger.query(sql, face["face_id"]).row(0, named=True)
        texts[face["face_id"]] = (
            f" by {rule['sql']}, filters {filter_set['name']}, version {filter_set['version']} "
            f"({', '.join(f'{name} {_format_value(value)}' for name, value in values.items())})"
        )
    return texts


def find_overridden_filters(ledger: Ledger, faces: list[dict[str, Any]]) -> dict[str, str]:
    """Returns a dict that maps a face id to the reason of the filter that would drop the face.

    Only faces that a decision accepts, and that a filter would drop without the decision, are in the dict.
    """
    accepted = find_accepts(
        select_active(read_decisions(ledger)),
        ledger.read_rows(Face, "list_contains(?, face_id)", [row["face_id"] for row in faces]),
    )
    details = ledger.read_details("filters")
    if not accepted or not details:
        return {}
    newest = details[0]
    rules = FilterSet(newest["name"], newest["version"], tuple(Filter(**rule) for rule in newest["filters"]))
    rows = ledger.read_rows(Face, "list_contains(?, face_id)", list(accepted))
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    facts = [list_photo_facts(photos[row.photo_id]) for row in rows]
    removals = find_removals(rows, facts, rules)
    return {
        row.face_id: rules.filters[int(removed.argmax())].reason
        for row, removed in zip(rows, removals, strict=True)
        if removed.any()
    }


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{part:.4g}" for part in value) + "]"
    return "unknown" if value is None else f"{value:.4g}"
