"""People -> train, val and test, so that no identity, as grouped, no photo and no copy of a photo is on two sides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from curate.config import CurateConfig, SplitRules
from curate.imports.listed_faces import LISTED_ELSEWHERE, find_listed_splits
from curate.people.near_duplicates import find_linked_photos
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, SPLITS, Face, ListEntry, Membership, Split
from manifests.runtime.files import sha256_bytes
from manifests.runtime.text import format_count

PHOTO_SPANS_SPLITS = "photo_spans_splits"
FACE_DROPPED = "face_dropped"
SHOWN = 5  # people in a notice


def split_faces(ledger: Ledger, config: CurateConfig) -> list[str]:
    """Train, val and test. Answers what is to be told: faces that imported lists have elsewhere than their person, and
    faces that change their split although a frozen set exists."""
    faces = [face for face in ledger.read_rows(Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    before = ledger.read_rows(Split)
    listed, torn = find_listed_splits(ledger.read_rows(ListEntry), faces)
    rows = make_splits(faces, ledger.read_rows(Membership), before, config.split, listed)
    check_splits(faces, rows)
    ledger.record("split", "all", config.split, rows, replace=(Split,))
    elsewhere = sum(row.reason == LISTED_ELSEWHERE for row in rows)
    aside = f"{elsewhere} faces are set aside: a list has them in another split than most of their person's faces."
    return [*torn, *([aside] if elsewhere else []), *describe_split_changes(find_split_changes(before, rows))]


def make_splits(
    faces: Sequence[Face],
    memberships: Sequence[Membership],
    before: Sequence[Split],
    rules: SplitRules,
    given: Mapping[str, str] | None = None,
) -> list[Split]:
    """A split for every grouped face; `faces` are all that are ok or near-duplicates, `before` the rows until now.

    By identity: each person's split follows from a stable hash of the smallest face_id, never from the identity's name;
    with three or more people of two photos and more, no split is empty. A person with a single face has no pairs and
    goes with the largest group in its photo, so that a bystander does not cost the photo. A face whose photo shows
    people of two splits is set aside. By photos: the same for the photos of a collection, copies of a photo together.
    While no row of `before` is locked, it counts for nothing. Once one is, every row stays where it was, since models
    were trained on it: it decides for its person, also through a copy that now stands for it, and is kept as dropped
    while its face is not accepted. Where people come together, locked rows go first, then train before val before test,
    so that what was trained on is not evaluated on; only people who are new fill an empty split. `given` maps faces to
    the split that an imported list has them in: after locked rows it decides, for a person (by identity) as most of
    their listed faces say, and those listed elsewhere are set aside, so that a listed face is in its split or in none.
    Raises BadInput where a locked person now falls into two splits, for another policy than the locked rows', and for
    rules that leave nothing to train on.
    """
    if rules.policy not in ("identity", "photos"):
        raise BadInput(f"--split-by {rules.policy}: say identity or photos.")
    if rules.val < 0 or rules.test < 0 or rules.val + rules.test >= 1:
        raise BadInput(f"val {rules.val} and test {rules.test} must be shares that leave something to train on.")
    check_policy(before, rules)
    before = before if any(row.locked for row in before) else ()
    owner = {member.face_id: member.identity_id for member in memberships}
    photo_of = {face.face_id: face.photo_id for face in faces}
    grouped = sorted(face for face in owner if face in photo_of)
    unit_of = _by_identity(grouped, owner) if rules.policy == "identity" else _by_photo(faces, grouped)
    stands = {face.face_id: face.duplicate_of or face.face_id for face in faces}
    given = given or {}
    kept = [(stands.get(row.face_id, row.face_id), row) for row in before]
    split_of = _assign(unit_of, owner, photo_of, kept, rules, given)

    side = {face: split_of[unit_of[face]] for face in grouped}
    seen = _splits_of_photos(faces, side)
    elsewhere = {face for face in grouped if given.get(face, side[face]) != side[face]}
    aside = {face for face in grouped if len(seen[photo_of[face]]) > 1} | elsewhere
    # copies of people of two splits may still meet in a photo without an accepted face of its own
    seen = _splits_of_photos(faces, {face: split for face, split in side.items() if face not in aside})
    aside |= {stands[face.face_id] for face in faces if len(seen[face.photo_id]) > 1}
    was_locked = {row.face_id for row in before if row.locked}
    rows = []
    for face in grouped:
        row = Split(face, owner[face], side[face], rules.policy, face in was_locked)
        why = LISTED_ELSEWHERE if face in elsewhere else PHOTO_SPANS_SPLITS
        rows.append(replace(row, status="dropped", reason=why) if face in aside else row)
    rows += [replace(row, status="dropped", reason=FACE_DROPPED) for row in before if row.face_id not in owner]
    return sorted(rows, key=lambda row: row.face_id)


def check_policy(before: Sequence[Split], rules: SplitRules) -> None:
    """Raise BadInput for another policy than that of the frozen sets: their people or photos would be trained on."""
    other = next((row.policy for row in before if row.locked and row.policy != rules.policy), None)
    if other is not None:
        raise BadInput(
            f"--split-by {rules.policy}: the frozen sets of this dataset are of --split-by {other}, and what they hold "
            f"would come into training: say --split-by {other}, or start a new dataset."
        )


def find_split_changes(before: Sequence[Split], after: Sequence[Split]) -> list[tuple[Split, Split]]:
    """The rows of faces whose split changes, before and after, by face; none while nothing is locked."""
    if not any(row.locked for row in before):
        return []
    was = {row.face_id: row for row in before}
    pairs = ((was[row.face_id], row) for row in after if row.face_id in was)
    return sorted(((old, new) for old, new in pairs if old.split != new.split), key=lambda pair: pair[1].face_id)


def describe_split_changes(moved: Sequence[tuple[Split, Split]]) -> list[str]:
    """A sentence for what `find_split_changes` found, naming the people; none where it found nothing."""
    if not moved:
        return []
    ways = Counter((new.identity_id, old.split, new.split) for old, new in moved)
    people = len({person for person, *_ in ways})
    ordered = sorted(ways.items(), key=lambda item: (-item[1], item[0]))
    some = "; ".join(f"{person}, {n} from {old} to {new}" for (person, old, new), n in ordered[:SHOWN])
    more = f"; and {len(ways) - SHOWN} more" if len(ways) > SHOWN else ""
    return [
        f"{format_count(len(moved), 'face')} of {format_count(people, 'person', 'people')} "
        f"{'changes its' if len(moved) == 1 else 'change their'} split although a frozen set exists: {some}{more}. "
        "Models trained before may have seen what is now evaluated on: train them again, into another folder."
    ]


def check_splits(faces: Sequence[Face], splits: Sequence[Split]) -> None:
    """Raise LedgerBroken if an identity (under --split-by identity), a photo or a near-duplicate crosses a split."""
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
    picture_of, photo_of = find_linked_photos(faces), {face.face_id: face.photo_id for face in faces}
    smallest: dict[str, str] = {}
    for face_id in grouped:
        smallest.setdefault(picture_of[photo_of[face_id]], face_id)
    return {face_id: smallest[picture_of[photo_of[face_id]]] for face_id in grouped}


def _assign(
    unit_of: dict[str, str],
    owner: dict[str, str],
    photo_of: dict[str, str],
    before: Sequence[tuple[str, Split]],
    rules: SplitRules,
    given: Mapping[str, str],
) -> dict[str, str]:
    """unit -> split; `before` holds each row that stays with the face that stands for its face today."""
    members: dict[str, list[str]] = defaultdict(list)
    for face, unit in unit_of.items():
        members[unit].append(face)
    fixed: dict[str, str] = {}
    for stands, row in before:
        fixed_unit = unit_of.get(stands)
        if row.locked and fixed_unit is not None and fixed.setdefault(fixed_unit, row.split) != row.split:
            raise BadInput(
                f"Identity {owner[stands]} joins faces of {fixed[fixed_unit]} and {row.split}, and a frozen set "
                "already uses these splits: split the identity again, or start a new dataset."
            )
    listed: dict[str, Counter[str]] = defaultdict(Counter)
    for face, split in given.items():
        if face in unit_of:
            listed[unit_of[face]][split] += 1
    for unit, votes in listed.items():
        fixed.setdefault(unit, min(votes, key=lambda split: (-votes[split], SPLITS.index(split))))
    known = [(unit_of[stands], row.split) for stands, row in before if stands in unit_of]
    for unit, split in sorted(known, key=lambda one: SPLITS.index(one[1])):
        fixed.setdefault(unit, split)
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


def _fill_empty(split_of: dict[str, str], fixed: Mapping[str, str], rules: SplitRules) -> None:
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
