"""Assigns units to train, val and test. A unit is a set of faces that must be in one split.

If faces are split by identity, a unit is a person. If faces are split by photos, a unit is a photo together with all
photos that contain copies of its faces. The id of a unit is its smallest face_id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from curate.config import SplitRules
from curate.people.near_duplicates import find_linked_photos
from manifests.errors import BadInput
from manifests.ledger.records import SPLITS, Face, Split
from manifests.runtime.files import sha256_bytes


def find_units_by_identity(grouped_faces: Sequence[str], owner: Mapping[str, str]) -> dict[str, str]:
    """Returns face_id -> unit.

    `grouped_faces` are the sorted ids of the faces in groups. `owner` maps each face id to an identity.
    """
    smallest: dict[str, str] = {}
    for face in grouped_faces:
        smallest.setdefault(owner[face], face)
    return {face: smallest[owner[face]] for face in grouped_faces}


def find_units_by_photo(grouped_faces: Sequence[str], faces: Sequence[Face]) -> dict[str, str]:
    """Returns face_id -> unit.

    `grouped_faces` are the sorted ids of the faces in groups. `faces` include near-duplicates.
    """
    linked, photo_of = find_linked_photos(faces), {face.face_id: face.photo_id for face in faces}
    smallest: dict[str, str] = {}
    for face in grouped_faces:
        smallest.setdefault(linked[photo_of[face]], face)
    return {face: smallest[linked[photo_of[face]]] for face in grouped_faces}


def assign_splits(
    unit_of: Mapping[str, str],
    owner: Mapping[str, str],
    photo_of: Mapping[str, str],
    before: Sequence[tuple[str, Split]],
    rules: SplitRules,
    listed_splits: Mapping[str, str],
) -> dict[str, str]:
    """Returns unit -> split.

    `unit_of`, `owner` and `photo_of` map each grouped face to its unit, identity and photo. `before` are the rows of
    the last run that still apply. Each entry of `before` contains a row and the current representative of the row's
    face. `listed_splits` maps a face to its split in an imported list. Raises BadInput if locked rows put one unit into
    two splits.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for face, unit in unit_of.items():
        members[unit].append(face)
    fixed_splits = _find_fixed_splits(unit_of, owner, before, listed_splits)

    # Assign a split to each unit that can have references. The split of a unit is fixed, or follows from a hash of the
    # unit's id.
    useful = sorted(unit for unit in members if rules.policy == "photos" or len(members[unit]) > 1)
    split_of = {unit: fixed_splits.get(unit) or _choose_split(unit, rules) for unit in useful}
    _fill_empty_splits(split_of, fixed_splits, rules)

    # A person with a single face gets the split of the largest unit in the same photo.
    units_in_photo: dict[str, list[str]] = defaultdict(list)
    for face, unit in unit_of.items():
        if unit in split_of:
            units_in_photo[photo_of[face]].append(unit)
    for unit in sorted(set(members) - set(split_of)):
        others = units_in_photo.get(photo_of[members[unit][0]], [])
        host = max(others, key=lambda other: (len(members[other]), other), default=None)
        split_of[unit] = fixed_splits.get(unit) or (split_of[host] if host else _choose_split(unit, rules))
    return split_of


def _find_fixed_splits(
    unit_of: Mapping[str, str],
    owner: Mapping[str, str],
    before: Sequence[tuple[str, Split]],
    listed_splits: Mapping[str, str],
) -> dict[str, str]:
    """Returns unit -> split for the units with a fixed split.

    Locked rows take precedence over imported lists. Imported lists take precedence over the other rows of the last run.
    """
    fixed_splits: dict[str, str] = {}
    for face, row in before:
        unit = unit_of.get(face)
        if row.locked and unit is not None and fixed_splits.setdefault(unit, row.split) != row.split:
            raise BadInput(
                f"Identity {owner[face]} has faces of {fixed_splits[unit]} and {row.split}, and frozen sets use both "
                "splits. Divide the identity with `likeness decide DATASET split`, or start a new dataset."
            )
    votes_of: dict[str, Counter[str]] = defaultdict(Counter)
    for face, split in listed_splits.items():
        if face in unit_of:
            votes_of[unit_of[face]][split] += 1
    for unit, votes in votes_of.items():
        fixed_splits.setdefault(unit, min(votes, key=lambda split: (-votes[split], SPLITS.index(split))))
    # If units of the last run were merged, the split train takes precedence over val and test. A model may have been
    # trained on the faces of train.
    previous_splits = [(unit_of[face], row.split) for face, row in before if face in unit_of]
    for unit, split in sorted(previous_splits, key=lambda item: SPLITS.index(item[1])):
        fixed_splits.setdefault(unit, split)
    return fixed_splits


def _hash_unit(unit: str) -> float:
    """Returns a number in [0, 1) that depends only on the unit's id."""
    return int(sha256_bytes(f"split {unit}".encode())[:13], 16) / 16**13


def _choose_split(unit: str, rules: SplitRules) -> str:
    number = _hash_unit(unit)
    return "test" if number < rules.test else "val" if number < rules.test + rules.val else "train"


def _fill_empty_splits(split_of: dict[str, str], fixed_splits: Mapping[str, str], rules: SplitRules) -> None:
    """Moves one unit without a fixed split into each empty split.

    Empty splits are filled in the order train, test, val.

    If there are at least three units, and enough of them have no fixed split, every split with a share above 0 gets a
    unit.
    """
    free = sorted((unit for unit in split_of if unit not in fixed_splits), key=_hash_unit)
    for name, share in (("train", 1.0), ("test", rules.test), ("val", rules.val)):
        if share <= 0 or name in split_of.values():
            continue
        counts = {other: sum(split == other for split in split_of.values()) for other in SPLITS}
        donor = next((unit for unit in free if counts[split_of[unit]] > 1), None)
        if donor is not None:
            split_of[donor] = name
