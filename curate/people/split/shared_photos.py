"""Finds splits for people who appear in photos together, so that few faces are set aside.

If a photo shows people of two splits, all its faces are set aside. Two people share a photo if both are in the photo.
People who share photos, directly or through other people, form a group. A person who shares no photo is a group of one
person. A small group goes to one split as a whole. Parts of a large group may go to another split if few faces are then
set aside. In this file, a unit is usually a person (assign_splits.py).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from curate.people.clustering.components import label_components
from manifests.ledger.records import Face
from manifests.runtime.files import sha256_bytes

# Largest number (ours) of units that leave a group together, about the size of a family. We compared limits on
# synthetic albums of 5 to 1,000 people. With a limit of 16, as many faces are set aside as with a limit of 8, and the
# search takes twice as long. With a limit of 5, up to five times as many faces are set aside as with a limit of 8.
MAX_PART = 8
# A part leaves its group only if at least half (ours) of the part's faces are not set aside afterwards.
_LEAST_KEPT = 0.5


@dataclass(frozen=True)
class SharedPhoto:
    """A photo that shows several units."""

    units: tuple[str, ...]  # Two or more units, sorted.
    faces: int  # Number of faces that are set aside if the units are in two splits.


@dataclass(frozen=True)
class SharedPhotos:
    """All photos that show several units, and the photos of each unit."""

    photos: tuple[SharedPhoto, ...]
    of_unit: Mapping[str, tuple[int, ...]]  # Unit -> indices in `photos`; a unit without shared photos is missing.
    shared_faces: Mapping[str, int]  # Unit -> sum of `SharedPhoto.faces` over the shared photos of the unit.
    faces: Mapping[str, int]  # Unit -> number of faces of the unit; also contains units without shared photos.


def find_shared_photos(faces: Iterable[Face], unit_of: Mapping[str, str], units: Collection[str]) -> SharedPhotos:
    """Returns the photos that show two or more of `units`.

    `faces` are all faces with the status ok and all near-duplicates. `unit_of` maps each face with an identity to its
    unit. A photo with a near-duplicate counts as a photo of the unit to which the near-duplicate's representative
    belongs. If a photo contains only near-duplicates, `SharedPhoto.faces` counts their representatives, because the
    representatives would be set aside.
    """
    inside: dict[str, set[str]] = defaultdict(set)  # Photo -> faces with a unit.
    shown: dict[str, set[str]] = defaultdict(set)  # Photo -> faces with a unit, or representatives.
    for face in faces:
        if face.representative in unit_of:
            shown[face.photo_id].add(face.representative)
            if face.face_id in unit_of:
                inside[face.photo_id].add(face.face_id)
    photos: list[SharedPhoto] = []
    of_unit: dict[str, list[int]] = defaultdict(list)
    units = set(units)
    for photo in sorted(shown):
        present = tuple(sorted({unit_of[face] for face in shown[photo]} & units))
        if len(present) > 1:
            for unit in present:
                of_unit[unit].append(len(photos))
            photos.append(SharedPhoto(present, len(inside[photo] or shown[photo])))
    return SharedPhotos(
        tuple(photos),
        {unit: tuple(places) for unit, places in of_unit.items()},
        {unit: sum(photos[place].faces for place in places) for unit, places in of_unit.items()},
        Counter(unit for unit in unit_of.values() if unit in units),
    )


def group_units(units: Iterable[str], shared: SharedPhotos) -> list[list[str]]:
    """Returns the sorted `units` in groups. Units that share a photo, directly or through other `units`, form a group.

    Each group is sorted, and the groups are sorted by their first unit.
    """
    ordered = sorted(units)
    number = {unit: i for i, unit in enumerate(ordered)}
    links = []
    for photo in shared.photos:
        present = [number[unit] for unit in photo.units if unit in number]
        links += [(present[0], other) for other in present[1:]]
    groups: dict[int, list[str]] = defaultdict(list)
    labels = label_components(len(ordered), np.array(links, np.int64).reshape(-1, 2)) if ordered else ()
    for unit, label in zip(ordered, labels, strict=True):
        groups[int(label)].append(unit)
    return sorted(groups.values())


def count_losses(units: Collection[str], split_of: Mapping[str, str], shared: SharedPhotos) -> int:
    """Returns the number of faces that are set aside in the shared photos of `units`."""
    places = {place for unit in units for place in shared.of_unit.get(unit, ())}
    photos = [shared.photos[place] for place in places]
    return sum(photo.faces for photo in photos if len({split_of[unit] for unit in photo.units}) > 1)


def count_new_losses(part: Collection[str], split: str, split_of: Mapping[str, str], shared: SharedPhotos) -> int:
    """Returns the number of additional faces that are set aside if the units of `part` move to `split`.

    The result is negative if fewer faces are set aside.

    A unit that `split_of` does not contain has no effect.
    """
    moved = set(part)
    change = 0
    for place in {place for unit in moved for place in shared.of_unit.get(unit, ())}:
        photo = shared.photos[place]
        before = {split_of[unit] for unit in photo.units if unit in split_of}
        after = {
            split if unit in moved else split_of[unit] for unit in photo.units if unit in moved or unit in split_of
        }
        change += photo.faces * ((len(after) > 1) - (len(before) > 1))
    return change


def cut_group(
    units: Collection[str], split: str, wanted: int, max_losses: int, split_of: dict[str, str], shared: SharedPhotos
) -> None:
    """Moves about `wanted` units from `units` to `split`.

    The units leave in parts of at most `MAX_PART` units, and at most half of the units leave. The cost of a part is the
    number of additional faces that are set aside, divided by the number of units in the part or by `wanted`, whichever
    is smaller. The part with the lowest cost leaves first. At most `max_losses` additional faces are set aside, so
    fewer than `wanted` units may leave. Changes `split_of` in place.
    """
    staying, may_leave, losses = set(units), len(units) // 2, 0
    if wanted <= 0 or may_leave == 0:
        return

    def find_part(seed: str) -> _Part:
        limit = min(MAX_PART, may_leave)
        return _find_part(seed, split, staying, wanted, limit, max_losses - losses, split_of, shared)

    queue = [(find_part(seed).key, seed) for seed in sorted(staying)]
    heapq.heapify(queue)
    while queue:
        key, seed = heapq.heappop(queue)
        if seed not in staying:
            continue
        part = find_part(seed)
        if not part.units:
            continue
        if part.key > key:  # other units have left since the part was measured
            heapq.heappush(queue, (part.key, seed))
            continue
        staying -= set(part.units)
        split_of.update(dict.fromkeys(part.units, split))
        wanted, may_leave, losses = wanted - len(part.units), may_leave - len(part.units), losses + part.losses
        if wanted <= 0 or may_leave == 0:
            break
        # Units that share photos with the units that left are measured again, because fewer faces may be set aside for
        # them now.
        near = {unit for moved in part.units for place in shared.of_unit[moved] for unit in shared.photos[place].units}
        for unit in sorted(near & staying):
            heapq.heappush(queue, (find_part(unit).key, unit))


class _Part(NamedTuple):
    """A part of a group: units that may leave the group together. The part with the smallest `key` leaves first."""

    key: tuple[float, int, float]
    units: tuple[str, ...]  # Empty if too many faces would be set aside.
    losses: int  # Number of faces that are set aside if the units leave the group.


def _find_part(
    seed: str,
    split: str,
    staying: Collection[str],
    wanted: int,
    max_units: int,
    max_losses: int,
    split_of: Mapping[str, str],
    shared: SharedPhotos,
) -> _Part:
    """Returns the best part of `staying` that contains `seed`.

    The part starts with `seed`, and grows by one unit at each step. The unit that joins has the largest difference of
    two numbers of faces: the faces in photos that the unit shares with the part, minus the faces in photos that the
    unit shares only with other units. The best part of all steps is returned: the part for which the fewest faces per
    unit are set aside. The returned part has no units if more than `max_losses` faces would be set aside for every
    part, or if every part would lose too many of its own faces.
    """
    part, best = [seed], _Part((math.inf, 0, 0.0), (), 0)
    ties: Counter[str] = Counter()  # unit -> number of faces in the photos that the unit shares with the part
    places: set[int] = set()  # the shared photos of the part
    while True:
        losses = count_new_losses(part, split, split_of, shared)
        key = (losses / min(len(part), wanted), len(part), hash_unit(seed))
        if losses <= max_losses and key < best.key and _keeps_faces(part, split, split_of, shared):
            best = _Part(key, tuple(part), losses)
        if len(part) >= max_units or losses <= 0:
            return best
        for place in shared.of_unit[part[-1]]:
            if place not in places:
                photo = shared.photos[place]
                ties.update(dict.fromkeys((unit for unit in photo.units if unit in staying), photo.faces))
                places.add(place)
        if not (others := ties.keys() - part):
            return best
        part.append(min(others, key=lambda unit: (shared.shared_faces[unit] - 2 * ties[unit], unit)))


def _keeps_faces(part: Sequence[str], split: str, split_of: Mapping[str, str], shared: SharedPhotos) -> bool:
    """Returns whether a part keeps the share `_LEAST_KEPT` of its own faces in `split`.

    The function assumes that each unit has one face in each photo.
    """
    moved = set(part)

    def is_mixed(photo: SharedPhoto) -> bool:
        return any(unit not in moved and split_of.get(unit, split) != split for unit in photo.units)

    lost = sum(is_mixed(shared.photos[place]) for unit in part for place in shared.of_unit.get(unit, ()))
    return lost <= (1 - _LEAST_KEPT) * sum(shared.faces[unit] for unit in part)


def hash_unit(unit: str) -> float:
    """Returns a number in [0, 1) that depends only on the unit's id."""
    return int(sha256_bytes(f"split {unit}".encode())[:13], 16) / 16**13
