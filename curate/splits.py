"""People -> train, val and test, so that no identity, as grouped, no photo and no copy of a photo is on two sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from curate.config import SplitRules
from curate.dedupe import linked_photos
from manifests.errors import BadInput, LedgerBroken
from manifests.records import Face, Membership, Split
from manifests.storage import sha256_bytes

SPLITS = ("train", "val", "test")
SPANS = "photo_spans_splits"
FACE_DROPPED = "face_dropped"


def make_splits(
    faces: Sequence[Face], memberships: Sequence[Membership], locked: Sequence[Split], rules: SplitRules
) -> list[Split]:
    """A split for every grouped face; `faces` are all that are ok or near-duplicates, `locked` earlier locked rows.

    By identity: each person's split follows from a stable hash of the smallest face_id, never from the identity's name;
    with three or more people of two photos and more, no split is empty. A person with a single face has no pairs and
    goes with the largest group in its photo, so that a bystander does not cost the photo. A face whose photo shows
    people of two splits is set aside. By photos: the same for the photos of a collection, copies of a photo together.
    A locked row stays: it decides for its person, also through a copy that now stands for it, and is kept as dropped
    while its face is not accepted. Raises BadInput where a locked person now falls into two splits, and for rules that
    leave nothing to train on.
    """
    if rules.policy not in ("identity", "photos"):
        raise BadInput(f"--split {rules.policy}: say identity or photos.")
    if rules.val < 0 or rules.test < 0 or rules.val + rules.test >= 1:
        raise BadInput(f"val {rules.val} and test {rules.test} must be shares that leave something to train on.")
    owner = {member.face_id: member.identity_id for member in memberships}
    photo_of = {face.face_id: face.photo_id for face in faces}
    grouped = sorted(face for face in owner if face in photo_of)
    unit_of = _by_identity(grouped, owner) if rules.policy == "identity" else _by_photo(faces, grouped)
    stands = {face.face_id: face.duplicate_of or face.face_id for face in faces}
    split_of = _assign(unit_of, owner, photo_of, [(stands.get(row.face_id, row.face_id), row) for row in locked], rules)

    side = {face: split_of[unit_of[face]] for face in grouped}
    seen = _splits_of_photos(faces, side)
    aside = {face for face in grouped if len(seen[photo_of[face]]) > 1}
    # copies of people of two splits may still meet in a photo without an accepted face of its own
    seen = _splits_of_photos(faces, {face: split for face, split in side.items() if face not in aside})
    aside |= {stands[face.face_id] for face in faces if len(seen[face.photo_id]) > 1}
    was_locked = {row.face_id for row in locked}
    rows = []
    for face in grouped:
        row = Split(face, owner[face], side[face], rules.policy, face in was_locked)
        rows.append(replace(row, status="dropped", reason=SPANS) if face in aside else row)
    rows += [replace(row, status="dropped", reason=FACE_DROPPED) for row in locked if row.face_id not in owner]
    return sorted(rows, key=lambda row: row.face_id)


def check_splits(faces: Sequence[Face], splits: Sequence[Split]) -> None:
    """Raise LedgerBroken if an identity (under --split identity), a photo or a near-duplicate crosses a split."""
    kept = {row.face_id: row for row in splits if row.status == "ok"}
    sides: dict[str, set[str]] = defaultdict(set)
    for row in kept.values():
        if row.policy == "identity":
            sides[f"identity {row.identity_id}"].add(row.split)
    for face in faces:
        stands = face.duplicate_of or face.face_id
        if stands in kept:
            sides[f"photo {face.photo_id}"].add(kept[stands].split)
            sides[f"face {stands} or a near-duplicate of it"].add(kept[stands].split)
        if face.face_id in kept:
            sides[f"face {stands} or a near-duplicate of it"].add(kept[face.face_id].split)
    for what, found in sorted(sides.items()):
        if len(found) > 1:
            raise LedgerBroken(f"Leak between splits: {what} is in {' and '.join(sorted(found))}.")


def _by_identity(grouped: Sequence[str], owner: dict[str, str]) -> dict[str, str]:
    """face -> the smallest face of its person."""
    smallest: dict[str, str] = {}
    for face in grouped:  # grouped is sorted
        smallest.setdefault(owner[face], face)
    return {face: smallest[owner[face]] for face in grouped}


def _by_photo(faces: Sequence[Face], grouped: Sequence[str]) -> dict[str, str]:
    """face -> the smallest face of its photo and of the photos that hold copies, however linked."""
    picture_of, photo_of = linked_photos(faces), {face.face_id: face.photo_id for face in faces}
    smallest: dict[str, str] = {}
    for face_id in grouped:
        smallest.setdefault(picture_of[photo_of[face_id]], face_id)
    return {face_id: smallest[picture_of[photo_of[face_id]]] for face_id in grouped}


def _assign(
    unit_of: dict[str, str],
    owner: dict[str, str],
    photo_of: dict[str, str],
    locked: Sequence[tuple[str, Split]],
    rules: SplitRules,
) -> dict[str, str]:
    """unit -> split; `locked` holds each locked row with the face that stands for its face today."""
    members: dict[str, list[str]] = defaultdict(list)
    for face, unit in unit_of.items():
        members[unit].append(face)
    fixed: dict[str, str] = {}
    for stands, row in locked:
        fixed_unit = unit_of.get(stands)
        if fixed_unit is not None and fixed.setdefault(fixed_unit, row.split) != row.split:
            raise BadInput(
                f"Identity {owner[stands]} joins faces of {fixed[fixed_unit]} and {row.split}, and a frozen set "
                "already uses these splits: split the identity again, or start a new dataset."
            )
    useful = sorted(unit for unit in members if rules.policy == "photos" or len(members[unit]) > 1)
    split_of = {unit: fixed.get(unit) or _hashed(unit, rules) for unit in useful}
    _fill_empty(split_of, fixed, rules)
    # people with one face go with the largest group in their photo
    in_photo: dict[str, list[str]] = defaultdict(list)
    for face, unit in unit_of.items():
        if unit in split_of:
            in_photo[photo_of[face]].append(unit)
    for unit in sorted(set(members) - set(split_of)):
        company = in_photo.get(photo_of[members[unit][0]], [])
        host = max(company, key=lambda other: (len(members[other]), other), default=None)
        split_of[unit] = fixed.get(unit) or (split_of[host] if host else _hashed(unit, rules))
    return split_of


def _place(unit: str) -> float:
    """A stable number in [0, 1) for a unit."""
    return int(sha256_bytes(f"split {unit}".encode())[:13], 16) / 16**13


def _hashed(unit: str, rules: SplitRules) -> str:
    place = _place(unit)
    return "test" if place < rules.test else "val" if place < rules.test + rules.val else "train"


def _fill_empty(split_of: dict[str, str], fixed: dict[str, str], rules: SplitRules) -> None:
    """With three or more units no wanted split stays empty; with two, test comes before val."""
    free = sorted((unit for unit in split_of if unit not in fixed), key=_place)
    for name, share in (("train", 1.0), ("test", rules.test), ("val", rules.val)):
        if share <= 0 or name in split_of.values():
            continue
        counts = {other: sum(split == other for split in split_of.values()) for other in SPLITS}
        donor = next((unit for unit in free if counts[split_of[unit]] > 1), None)
        if donor is not None:
            split_of[donor] = name


def _splits_of_photos(faces: Sequence[Face], split_of: dict[str, str]) -> dict[str, set[str]]:
    """photo -> splits of the people in it; a near-duplicate counts as the face that stands for it."""
    seen: dict[str, set[str]] = defaultdict(set)
    for face in faces:
        stands = face.duplicate_of or face.face_id
        if stands in split_of:
            seen[face.photo_id].add(split_of[stands])
    return seen
