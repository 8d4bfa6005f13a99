"""The stage `screen` accepts or drops faces by filters over their recorded measures.

No face is detected again. If the filters change, dropped faces come back from their rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from curate.config import CurateConfig
from curate.detection.crops import crop_batch
from curate.detection.filter_files import BUILT_IN_REASONS
from curate.detection.read_photos import list_uris, rank_place
from curate.detection.reasons import CROP_MISSING, PHOTO_VANISHED
from curate.photos.batches import PHOTOS_A_BATCH, split_into_batches
from curate.photos.consent import find_usable_photos
from manifests.ledger.decision_log import DROPPED_BY_DECISION
from manifests.ledger.filters import FilterSet, find_removals
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import NEAR_DUPLICATE, Face, Photo
from manifests.privacy.erase import CONSENT_MISSING, NO_CONSENT
from manifests.runtime.files import sha256_file
from manifests.runtime.progress import Progress
from manifests.runtime.workers import FAILURES, BatchMap

# Reasons of other stages that screening may replace. Other faces keep their row, for example those that opted out.
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
# The crop of a face with one of these reasons may be on the disk and be broken.
_DOUBTFUL_CROP = {CROP_MISSING, PHOTO_VANISHED, *FAILURES}


def screen(ledger: Ledger, config: CurateConfig, map_batches: BatchMap, progress: Progress) -> None:
    """Records which faces the filters accept, and why the other faces are dropped.

    If the crop of an accepted face is missing, it is cut from the photo again.
    """
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    usable = find_usable_photos(photos)
    reasons_of_filters = {rule["reason"] for filters in ledger.read_details("filters") for rule in filters["filters"]}
    replaceable = _REPLACEABLE | BUILT_IN_REASONS | reasons_of_filters
    faces = [face for face in ledger.read_rows(Face) if face.reason in replaceable and face.photo_id in usable]
    sizes = [(photos[face.photo_id].width, photos[face.photo_id].height) for face in faces]
    removed = find_removals(faces, sizes, config.screen)
    changed: list[Face] = []
    to_crop: list[Face] = []
    for face, reason in zip(faces, pick_first_reasons(removed, config.screen), strict=True):
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
        if reason is None and face.crop_sha256 is None:  # an earlier run was killed between the crop and its row
            row = replace(row, crop_sha256=sha256_file(crop))
        if row != face:
            changed.append(row)
    changed += _crop(ledger, to_crop, map_batches, progress)
    ledger.record("screen", "all", config.screen, changed, detail=count_removals(removed, config.screen))


def _crop(ledger: Ledger, faces: Iterable[Face], map_batches: BatchMap, progress: Progress) -> list[Face]:
    """Cuts the crops of `faces` from their photos. Returns the faces' new rows."""
    uris: Mapping[str, Sequence[str]] = list_uris(ledger)
    faces_of: dict[str, list[Face]] = defaultdict(list)
    for face in faces:
        faces_of[face.photo_id].append(face)
    photos = [(photo, uris.get(photo, ()), faces_of[photo]) for photo in sorted(faces_of)]
    photos.sort(key=lambda item: rank_place(item[1]))
    batches = split_into_batches(photos, PHOTOS_A_BATCH)
    rows: list[Face] = []
    for done, new_rows in enumerate(map_batches(partial(crop_batch, dataset=ledger.dataset), batches), 1):
        rows += new_rows
        progress("crop", min(done * PHOTOS_A_BATCH, len(photos)), len(photos))
    return rows


def _is_whole(crop: Path, face: Face) -> bool:
    return crop.is_file() and sha256_file(crop) == face.crop_sha256


def find_reasons(faces: Sequence[Face], sizes: Sequence[tuple[int, int]], filters: FilterSet) -> list[str | None]:
    """Returns for each face the reason of the first filter that removes it, or None.

    `sizes` are the (width, height) of the faces' photos, in pixels.
    """
    return pick_first_reasons(find_removals(faces, sizes, filters), filters)


def pick_first_reasons(removed: np.ndarray, filters: FilterSet) -> list[str | None]:
    """Returns the reason of the first true column in each row of bool (faces, filters), or None if none is true."""
    if not filters.filters:
        return [None] * len(removed)
    first = np.where(removed.any(1), removed.argmax(1), -1)
    return [None if column < 0 else filters.filters[column].reason for column in first.tolist()]


def count_removals(removed: np.ndarray, filters: FilterSet) -> dict[str, Any]:
    """Returns how many faces each filter removes, from bool (faces, filters), as a detail for the ledger.

    `first` counts the faces that no earlier filter removes, `alone` all faces that the filter removes, and `only`
    the faces that no other filter removes.
    """
    hits = removed.sum(1)
    first = removed & (removed.cumsum(1) == 1)
    return {
        "name": filters.name,
        "version": filters.version,
        "faces": len(removed),
        "kept": int((hits == 0).sum()),
        "filters": [
            {
                "reason": rule.reason,
                "sql": rule.sql,
                "first": int(first[:, column].sum()),
                "alone": int(removed[:, column].sum()),
                "only": int((removed[:, column] & (hits == 1)).sum()),
            }
            for column, rule in enumerate(filters.filters)
        ],
    }
