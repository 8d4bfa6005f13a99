"""Reads the groups of near-duplicates: the copy that is used, and why each other copy is not used."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from curate.people.constraints.links import find_preferred_faces
from manifests.ledger.decisions.decision_log import read_decisions
from manifests.ledger.ledger import Ledger
from manifests.ledger.original_copies import Copy, choose_original
from manifests.ledger.records import NEAR_DUPLICATE, Face, Photo
from manifests.privacy.erase import HIDDEN_PHOTOS
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path

CHOSEN = "is what Likeness would use, but you chose another copy"

_ORIGINALS = """
SELECT duplicate_of AS face_id, count(*) + 1 AS copies FROM faces
WHERE reason = 'near_duplicate' AND duplicate_of IS NOT NULL AND duplicate_of IN (SELECT face_id FROM faces)
GROUP BY 1 ORDER BY copies DESC, face_id"""
_REPEATING = """
SELECT DISTINCT photo_id FROM faces f JOIN memberships m ON m.face_id = coalesce(f.duplicate_of, f.face_id)
GROUP BY photo_id, identity_id HAVING count(*) > 1"""
_NAMES = """
SELECT photo_id, min(uri) AS uri FROM files WHERE status = 'ok' AND list_contains(?, photo_id) GROUP BY 1"""


@dataclass(frozen=True)
class CopyView:
    """What the page shows of a copy."""

    face_id: str
    file: str  # Name of a file that contains the copy, or "" if every such file is gone.
    size: str  # Width and height of the photo in pixels, as text.
    eyes: int  # Distance between the eyes in pixels of the photo.
    is_kept: bool
    reason: str  # Why the copy is not used, as the end of a sentence after "This copy", or "".
    is_hidden: bool  # Whether the pages must not show a picture of the photo.
    is_next: bool = False  # Whether the copy is used as soon as the recorded decisions are applied.


@dataclass(frozen=True)
class CopyGroup:
    """A set of near-duplicates. The copy that is used is the first of `copies`."""

    copies: tuple[CopyView, ...]
    by_user: bool  # whether a decision chose the copy that is used


def count_groups(ledger: Ledger) -> tuple[int, int]:
    """Returns the number of groups of near-duplicates, and the number of copies that are not used."""
    frame = ledger.query(_ORIGINALS)
    return len(frame), int(frame["copies"].sum() or 0) - len(frame)


def read_groups(ledger: Ledger, start: int, limit: int) -> list[CopyGroup]:
    """Returns up to `limit` groups, from number `start` on. The group with the most copies comes first."""
    originals = ledger.query(f"{_ORIGINALS} LIMIT ? OFFSET ?", limit, start)["face_id"].to_list()
    faces: dict[str, list[Face]] = defaultdict(list)
    for face in ledger.read_rows(
        Face, "list_contains(?, face_id) OR (reason = ? AND list_contains(?, duplicate_of))",
        originals, NEAR_DUPLICATE, originals,
    ):  # fmt: skip
        faces[face.representative].append(face)
    photo_ids = sorted({face.photo_id for group in faces.values() for face in group})
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo, "list_contains(?, photo_id)", photo_ids)}
    repeating = set(ledger.query(_REPEATING)["photo_id"])
    hidden = set(ledger.query(HIDDEN_PHOTOS)["photo_id"])
    names = dict(ledger.query(_NAMES, photo_ids).iter_rows())
    preferred = find_preferred_faces(read_decisions(ledger), [face for group in faces.values() for face in group])
    groups = []
    for original in originals:
        last = next((face for face in reversed(preferred) if face in {one.face_id for one in faces[original]}), None)
        members = [face for face in faces[original] if face.photo_id in photos]
        _, reasons = choose_original(
            [Copy(face, photos[face.photo_id], face.photo_id in repeating) for face in members]
        )
        copies = [
            CopyView(
                face.face_id,
                make_printable(display_path(names[face.photo_id]).name) if face.photo_id in names else "",
                f"{photos[face.photo_id].width} x {photos[face.photo_id].height}",
                round(face.inter_ocular_px),
                face.face_id == original,
                "" if face.face_id == original else reason or CHOSEN,
                face.photo_id in hidden,
                face.face_id == last != original,
            )
            for face, reason in zip(members, reasons, strict=True)
        ]
        copies.sort(key=lambda copy: (not copy.is_kept, -copy.eyes, copy.face_id))
        groups.append(CopyGroup(tuple(copies), original == last))
    return groups
