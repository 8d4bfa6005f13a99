"""Finds the labels of erased faces, and removes names and ids from the details of the stages `label` and `group`."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from manifests.ledger.label_faces import select_labels_of_faces
from manifests.ledger.ledger import DetailUpdate, Ledger
from manifests.ledger.queries import read_units
from manifests.ledger.records import NEAR_DUPLICATE, Face, Label, Photo

# the keys of the details of `label` and `group` whose values may contain names, or ids of photos, faces or people
_NAMING_DETAILS = ("notices", "label_doubts", "labels_parted", "collages")


def find_labels_of_faces(ledger: Ledger, face_ids: Collection[str]) -> list[Label]:
    """Returns the labels that belong to these faces, or that may name one of these faces."""
    labels = ledger.read_rows(Label)
    if not labels:
        return []
    faces = [
        face
        for face in ledger.read_rows(Face)
        if face.status == "ok" or face.reason == NEAR_DUPLICATE or face.face_id in face_ids
    ]
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    return select_labels_of_faces(labels, faces, photos, face_ids)


def remove_names_from_details(
    ledger: Ledger, ids: Collection[str], names: Collection[str], removed_labels: Sequence[Label]
) -> list[DetailUpdate]:
    """Returns the changed details of the stages `label` and `group`, without the entries that contain a removed text.

    The removed texts are of three kinds. `ids` are the ids of removed photos and faces. Some entries contain only the
    first 12 characters of an id, so only these characters are compared. `names` are other texts. The names of
    `removed_labels` are removed too, unless another label has the same name.
    """
    texts = list_removed_texts(ledger, ids, names, removed_labels)
    changes: list[DetailUpdate] = []
    for stage, unit, config_hash, before in read_units(ledger, "label", "group"):
        after = {
            key: _remove_entries(value, texts) if key in _NAMING_DETAILS else value for key, value in before.items()
        }
        if after != before:
            changes.append((stage, unit, config_hash, after))
    return changes


def list_removed_texts(
    ledger: Ledger, ids: Collection[str], names: Collection[str], removed_labels: Sequence[Label]
) -> set[str]:
    """Returns the texts to remove from the details. `remove_names_from_details` explains the arguments."""
    removed = {(row.photo_id, row.number) for row in removed_labels}
    other_names = {row.label for row in ledger.read_rows(Label) if (row.photo_id, row.number) not in removed}
    return {long_id[:12] for long_id in ids} | {*names} | ({row.label for row in removed_labels} - other_names)


def _remove_entries(value: Any, texts: set[str]) -> Any:
    """Returns a list or dict of JSON without the entries that contain one of `texts`."""
    if isinstance(value, dict):
        return {
            key: _remove_entries(entry, texts) for key, entry in value.items() if not any(text in key for text in texts)
        }
    if isinstance(value, list):
        dumps = [json.dumps(entry, ensure_ascii=False) for entry in value]
        # In JSON, a quote in a name is written as \"
        encoded = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts]
        return [entry for entry, dump in zip(value, dumps, strict=True) if not any(text in dump for text in encoded)]
    return value
