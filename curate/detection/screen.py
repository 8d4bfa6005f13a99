"""The stage `screen` accepts or drops each face: it applies the filters to the recorded measures of the face.

When the filters change, the photos are not searched for faces again. A dropped face can be accepted by new filters,
because its row keeps the measures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from curate.config import CurateConfig
from curate.detection.crops import crop_batch
from curate.detection.filter_files import BUILT_IN_REASONS
from curate.detection.read_photos import list_sources, rank_place
from curate.detection.reasons import CROP_MISSING, PHOTO_VANISHED
from curate.photos.batches import PHOTOS_A_BATCH, split_into_batches
from curate.photos.consent import find_usable_photos
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, read_decisions
from manifests.ledger.decisions.face_finder import find_accepts
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.filters import FilterSet, PhotoFacts, find_removals, list_photo_facts
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import NEAR_DUPLICATE, Face, Photo
from manifests.privacy.erase import CONSENT_MISSING, NO_CONSENT
from manifests.runtime.files import sha256_file
from manifests.runtime.progress import Progress
from manifests.runtime.workers import FAILURES, BatchMap

# The reasons of other stages that the stage `screen` may replace. A face with a reason outside _REPLACEABLE, for
# example a face that opted out, keeps its row.
_REPLACEABLE = {
    None,
    NEAR_DUPLICATE,
    DROPPED_BY_DECISION,
    PHOTO_VANISHED,
    CROP_MISSING,
    NO_CONSENT,
    CONSENT_MISSING,
    *FAILURES,
}
# If a face failed for a reason in _DOUBTFUL_CROP, the file of its crop may be broken.
_DOUBTFUL_CROP = {CROP_MISSING, PHOTO_VANISHED, *FAILURES}


def screen(ledger: Ledger, config: CurateConfig, map_batches: BatchMap, progress: Progress) -> None:
    """Records which faces the filters accept, and why the other faces are dropped.

    No filter drops a face that a decision accepts. If the crop of an accepted face is missing, the crop is cut from the
    photo again.
    """
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    usable_photos = find_usable_photos(photos)
    reasons_of_filters = {rule["reason"] for filters in ledger.read_details("filters") for rule in filters["filters"]}
    replaceable = _REPLACEABLE | BUILT_IN_REASONS | reasons_of_filters
    faces = [face for face in ledger.read_rows(Face) if face.reason in replaceable and face.photo_id in usable_photos]
    facts = {photo: list_photo_facts(row) for photo, row in photos.items()}
    removals = find_removals(faces, [facts[face.photo_id] for face in faces], config.screen)
    accepts = find_accepts(select_active(read_decisions(ledger)), faces)
    is_accepted = np.array([face.face_id in accepts for face in faces], bool)
    kept_by_decision = int(removals[is_accepted].any(1).sum())
    removals[is_accepted] = False
    new_rows: list[Face] = []
    to_crop: list[Face] = []
    for face, reason in zip(faces, pick_first_reasons(removals, config.screen), strict=True):
        if reason is not None:
            row = replace(face, status="dropped", reason=reason, duplicate_of=None)
        elif face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION):
            row = face
        else:
            row = replace(face, status="ok", reason=None)
        crop = crop_path(ledger.dataset, face.face_id)
        if reason is None and not (_is_whole(crop, face) if face.reason in _DOUBTFUL_CROP else crop.exists()):
            to_crop.append(row)
            continue
        if reason is None and face.crop_sha256 is None:  # an earlier run was killed before it recorded the hash
            row = replace(row, crop_sha256=sha256_file(crop))
        if row != face:
            new_rows.append(row)
    new_rows += _crop(ledger, to_crop, map_batches, progress)
    counts = {**count_removals(removals, config.screen), "kept_by_decision": kept_by_decision}
    ledger.record("screen", "all", config.screen, new_rows, detail=counts)


def _crop(ledger: Ledger, faces: Iterable[Face], map_batches: BatchMap, progress: Progress) -> list[Face]:
    """Cuts the crops of `faces` from their photos. Returns the new ledger rows of the faces."""
    sources = list_sources(ledger)
    faces_of: dict[str, list[Face]] = defaultdict(list)
    for face in faces:
        faces_of[face.photo_id].append(face)
    photos = [(sources.get(photo, ()), faces_of[photo]) for photo in sorted(faces_of)]
    photos.sort(key=lambda item: rank_place(item[0]))
    batches = split_into_batches(photos, PHOTOS_A_BATCH)
    rows: list[Face] = []
    done = 0
    for batch, new_rows in zip(batches, map_batches(partial(crop_batch, dataset=ledger.dataset), batches), strict=True):
        rows += new_rows
        done += len(batch)
        progress("crop", done, len(photos))
    return rows


def _is_whole(crop: Path, face: Face) -> bool:
    return crop.is_file() and sha256_file(crop) == face.crop_sha256


def find_reasons(faces: Sequence[Face], photos: Sequence[PhotoFacts], filters: FilterSet) -> list[str | None]:
    """Returns for each face the reason of the first filter that removes it, or None.

    `photos` has the width, the height and other facts of the photo of each face.
    """
    return pick_first_reasons(find_removals(faces, photos, filters), filters)


def pick_first_reasons(removals: np.ndarray, filters: FilterSet) -> list[str | None]:
    """Returns for each face the reason of the first filter that removes it, or None. `removals` is (faces, filters)."""
    if not filters.filters:
        return [None] * len(removals)
    first = np.where(removals.any(1), removals.argmax(1), -1)
    return [None if column < 0 else filters.filters[column].reason for column in first.tolist()]


def count_removals(removals: np.ndarray, filters: FilterSet) -> dict[str, Any]:
    """Returns how many faces each filter removes, as a detail for the ledger. `removals` is bool (faces, filters).

    The count `alone` is the number of all faces that the filter removes. The count `first` leaves out the faces that an
    earlier filter removes. The count `only` is the number of faces that no other filter removes.
    """
    hits = removals.sum(1)
    first = removals & (removals.cumsum(1) == 1)
    return {
        "name": filters.name,
        "version": filters.version,
        "faces": len(removals),
        "kept": int((hits == 0).sum()),
        "filters": [
            {
                "reason": rule.reason,
                "sql": rule.sql,
                "first": int(first[:, column].sum()),
                "alone": int(removals[:, column].sum()),
                "only": int((removals[:, column] & (hits == 1)).sum()),
            }
            for column, rule in enumerate(filters.filters)
        ],
        "test_filters": [{"reason": rule.reason, "sql": rule.sql} for rule in filters.test_filters],
    }
