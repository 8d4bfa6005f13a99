"""Assigns units to train, val and test. A unit is a set of faces that must be in one split.

If faces are split by identity, a unit is a person. If faces are split by photos, a unit is a photo together with all
photos that contain copies of its faces. The id of a unit is the smallest face_id in the unit.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from curate.config import SplitRules
from curate.people.copies.near_duplicates import find_linked_photos
from curate.people.split.shared_photos import (
    MAX_PART,
    SharedPhotos,
    count_losses,
    count_new_losses,
    cut_group,
    find_shared_photos,
    group_units,
    hash_unit,
)
from manifests.errors import BadInput
from manifests.ledger.records import SPLITS, Face, Split

# A group is a set of units that share photos (shared_photos.py). A part of a group moves to val or test only if at most
# the share MAX_LOSS (ours) of the group's faces is set aside afterwards.
MAX_LOSS = 0.1
# To fill an empty split, up to the share MAX_LOSS_FOR_A_SPLIT (ours) of a group's faces may be set aside. For example,
# a whole class is in one photo, and each person has four photos. If the class is divided between two splits, the faces
# of the class photo are set aside. These faces are a quarter of all faces.
MAX_LOSS_FOR_A_SPLIT = 0.25


def find_units_by_identity(grouped_faces: Sequence[str], owner: Mapping[str, str]) -> dict[str, str]:
    """Returns face_id -> unit.

    `grouped_faces` are the sorted ids of the faces that have an identity. `owner` maps each face id to its identity.
    """
    smallest: dict[str, str] = {}
    for face in grouped_faces:
        smallest.setdefault(owner[face], face)
    return {face: smallest[owner[face]] for face in grouped_faces}


def find_units_by_photo(grouped_faces: Sequence[str], faces: Sequence[Face]) -> dict[str, str]:
    """Returns face_id -> unit.

    `grouped_faces` are the sorted ids of the faces that have an identity. `faces` also contain near-duplicates.
    """
    linked, photo_of = find_linked_photos(faces), {face.face_id: face.photo_id for face in faces}
    smallest: dict[str, str] = {}
    for face in grouped_faces:
        smallest.setdefault(linked[photo_of[face]], face)
    return {face: smallest[linked[photo_of[face]]] for face in grouped_faces}


def assign_splits(
    unit_of: Mapping[str, str],
    owner: Mapping[str, str],
    faces: Sequence[Face],
    before: Sequence[tuple[str, Split]],
    rules: SplitRules,
    listed_splits: Mapping[str, str],
) -> dict[str, str]:
    """Returns unit -> split.

    `unit_of` and `owner` map each face to its unit and its identity. `faces` are all faces with the status ok and all
    near-duplicates. `before` are the rows of the last run that still apply. Each item of `before` contains a row and
    the current representative of the row's face. `listed_splits` maps a face to its split in an imported list. Raises
    BadInput if locked rows put one unit into two splits.
    """
    photo_of = {face.face_id: face.photo_id for face in faces}
    members: dict[str, list[str]] = defaultdict(list)
    for face, unit in unit_of.items():
        members[unit].append(face)
    fixed_splits = _find_fixed_splits(unit_of, owner, before, listed_splits)

    # Assign a split to each unit that can have references. A unit without a fixed split gets the split of the units
    # with which the unit shares photos.
    useful = sorted(unit for unit in members if rules.policy == "photos" or len(members[unit]) > 1)
    split_of = {unit: fixed_splits[unit] for unit in useful if unit in fixed_splits}
    shared = find_shared_photos(faces, unit_of, set(useful))
    groups = group_units((unit for unit in useful if unit not in split_of), shared)
    shares = {"train": 1.0, "test": rules.test, "val": rules.val}
    chosen = {group[0]: _choose_group_split(group, shares, len(useful), split_of, shared) for group in groups}
    split_of |= {unit: chosen[group[0]] for group in groups for unit in group}
    _fill_empty_splits(split_of, groups, shares, shared)
    _cut_large_groups(split_of, groups, shares, shared)

    # A person with a single face gets the split of the largest unit in the same photo.
    units_in_photo: dict[str, list[str]] = defaultdict(list)
    for face, unit in unit_of.items():
        if unit in split_of:
            units_in_photo[photo_of[face]].append(unit)
    for unit in sorted(set(members) - set(split_of)):
        others = units_in_photo.get(photo_of[members[unit][0]], [])
        host = max(others, key=lambda other: (len(members[other]), other), default=None)
        split_of[unit] = fixed_splits.get(unit) or (split_of[host] if host else _choose_split(unit, shares))
    return split_of


def describe_two_frozen_splits(person: str, one: str, other: str) -> str:
    """Returns a sentence about a person with faces in two splits that frozen sets use."""
    return (
        f"Identity {person} has faces of {one} and {other}, and frozen sets use both splits. Divide the identity with "
        "`likeness decide DATASET split`, or start a new dataset."
    )


def _find_fixed_splits(
    unit_of: Mapping[str, str],
    owner: Mapping[str, str],
    before: Sequence[tuple[str, Split]],
    listed_splits: Mapping[str, str],
) -> dict[str, str]:
    """Returns unit -> split for the units with a fixed split.

    Locked rows take precedence over imported lists. Imported lists take precedence over unlocked rows of the last run.
    """
    fixed_splits: dict[str, str] = {}
    for face, row in before:
        unit = unit_of.get(face)
        if row.locked and unit is not None and fixed_splits.setdefault(unit, row.split) != row.split:
            raise BadInput(describe_two_frozen_splits(owner[face], fixed_splits[unit], row.split))
    votes_of: dict[str, Counter[str]] = defaultdict(Counter)
    for face, split in listed_splits.items():
        if face in unit_of:
            votes_of[unit_of[face]][split] += 1
    for unit, votes in votes_of.items():
        fixed_splits.setdefault(unit, min(votes, key=lambda split: (-votes[split], SPLITS.index(split))))
    # If a unit contains faces from several splits of the last run, train takes precedence over val and test. A model
    # may have been trained on the faces of train.
    previous_splits = [(unit_of[face], row.split) for face, row in before if face in unit_of]
    for unit, split in sorted(previous_splits, key=lambda item: SPLITS.index(item[1])):
        fixed_splits.setdefault(unit, split)
    return fixed_splits


def _choose_split(unit: str, shares: Mapping[str, float]) -> str:
    """Returns the split that follows from a hash of the unit's id."""
    number = hash_unit(unit)
    return "test" if number < shares["test"] else "val" if number < shares["test"] + shares["val"] else "train"


def _choose_group_split(
    group: Sequence[str],
    shares: Mapping[str, float],
    count: int,
    fixed_splits: Mapping[str, str],
    shared: SharedPhotos,
) -> str:
    """Returns the split of a group of units that share photos.

    `count` is the number of all units that can have references.
    A group that shares photos with units of `fixed_splits` goes to the split for which the fewest faces are set aside.
    The split of any other group follows from a hash of its first unit. A group that is too large for val or test goes
    to train.
    """
    near = {other for unit in group for place in shared.of_unit.get(unit, ()) for other in shared.photos[place].units}
    tied = {fixed_splits[unit] for unit in near if unit in fixed_splits}
    hashed = _choose_split(group[0], shares)
    fits = {
        split
        for split, share in shares.items()
        if split == "train" or len(group) <= _count_room(share, count) or (split in tied and len(group) <= MAX_PART)
    }
    if not tied:
        return hashed if hashed in fits else "train"
    return min(sorted(fits), key=lambda split: (count_new_losses(group, split, fixed_splits, shared), split != hashed))


def _fill_empty_splits(
    split_of: dict[str, str], groups: Sequence[Sequence[str]], shares: Mapping[str, float], shared: SharedPhotos
) -> None:
    """Moves units without a fixed split into each empty split. Changes `split_of` in place.

    Empty splits are filled in the order train, test, val. `groups` contain the units without a fixed split. If
    possible, a small group moves. If no small group can move, a part of a group moves. If no part can move, a large
    group moves. A split with a share above 0 stays empty in three cases: there are fewer than three units, too few
    units have no fixed split, or more than the share `MAX_LOSS_FOR_A_SPLIT` of the group's faces would be set aside.
    """
    limits = [int(MAX_LOSS_FOR_A_SPLIT * sum(shared.faces[unit] for unit in group)) for group in groups]
    by_size = sorted(range(len(groups)), key=lambda number: (-len(groups[number]), number))
    for name, share in shares.items():
        if share <= 0 or name in split_of.values():
            continue
        size = Counter(split_of.values())
        whole = [
            (new_losses, len(group), hash_unit(group[0]), number)
            for number, group in enumerate(groups)
            if len({split_of[unit] for unit in group}) == 1
            and size[split_of[group[0]]] > len(group)
            and (new_losses := count_new_losses(group, name, split_of, shared)) <= limits[number]
        ]
        small = [item for item in whole if item[1] <= max(MAX_PART, _count_room(share, len(split_of)))]
        for number in by_size if not small else ():
            most = Counter(split_of[unit] for unit in groups[number]).most_common(1)[0][0]
            units = [unit for unit in groups[number] if split_of[unit] == most]
            max_losses = limits[number] - count_losses(groups[number], split_of, shared)
            cut_group(units, name, 1, max_losses, split_of, shared)
            if name in split_of.values():
                break
        if whole and name not in split_of.values():
            split_of |= dict.fromkeys(groups[min(small or whole)[-1]], name)


def _cut_large_groups(
    split_of: dict[str, str], groups: Sequence[Sequence[str]], shares: Mapping[str, float], shared: SharedPhotos
) -> None:
    """Moves parts of large groups into val and test. Changes `split_of` in place.

    A group is large if it is too large to go to val or test as a whole. Val and test each get about their share of the
    units of each large group. Fewer units move if more than the share `MAX_LOSS` of the group's faces would be set
    aside.
    """
    for group in groups:
        limit = int(MAX_LOSS * sum(shared.faces[unit] for unit in group))
        for name, part in (("test", 0.5), ("val", 1.0)):  # test may use half of `limit`, and val may use the rest
            if len(group) > _count_room(shares[name], len(split_of)):
                units = [unit for unit in group if split_of[unit] == "train"]
                wanted = int(shares[name] * len(group) + 0.5) - sum(split_of[unit] == name for unit in group)
                max_losses = int(part * limit) - count_losses(group, split_of, shared)
                cut_group(units, name, wanted, max_losses, split_of, shared)


def _count_room(share: float, count: int) -> int:
    """Returns a limit: only a group of at most this number of units may go to a split as a whole.

    The split gets the share `share` of `count` units.
    """
    return max(1, math.ceil(share * count)) if share > 0 else 0
