"""Sentences for the user about the splits: why faces are set aside, why a split is empty, and who changes the split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from curate.config import SplitRules
from manifests.ledger.records import SPLITS, Face, Split
from manifests.runtime.text import format_count

PHOTO_SPANS_SPLITS = "photo_spans_splits"
_EXAMPLES = 5  # largest number of people in a notice


def describe_split_changes(changes: Sequence[tuple[Split, Split]]) -> list[str]:
    """Returns a notice about the people whose faces change their split, or an empty list."""
    if not changes:
        return []
    counts = Counter((new.identity_id, old.split, new.split) for old, new in changes)
    people = len({person for person, *_ in counts})
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    examples = "; ".join(f"{person}, {n} from {old} to {new}" for (person, old, new), n in ordered[:_EXAMPLES])
    more = f"; and {len(counts) - _EXAMPLES} more" if len(counts) > _EXAMPLES else ""
    return [
        f"{format_count(len(changes), 'face')} of {format_count(people, 'person', 'people')} "
        f"{'changes its' if len(changes) == 1 else 'change their'} split although a frozen set exists: "
        f"{examples}{more}. Earlier models may have been trained on faces that are now in val or test. "
        "Train earlier models again into another folder."
    ]


def describe_faces_aside(rows: Sequence[Split], faces: Sequence[Face], frozen: bool, listed: bool) -> list[str]:
    """Returns a notice about the faces whose photo shows people of several splits, or an empty list.

    The notice names the two people who share most of these photos, the cause, and the way out. `faces` are all faces
    that are ok or near-duplicates. `frozen` says whether frozen sets keep people in their splits, and `listed` whether
    an imported list names splits.
    """
    aside = {row.face_id for row in rows if row.reason == PHOTO_SPANS_SPLITS}
    if not aside:
        return []
    row_of = {row.face_id: row for row in rows}
    people: dict[str, set[tuple[str, str]]] = defaultdict(set)  # photo -> (identity, split) of its faces
    for face in faces:
        if face.representative in row_of:
            row = row_of[face.representative]
            people[face.photo_id].add((row.identity_id, row.split))
    pairs = Counter(
        (one, other) for shown in people.values() for one, other in combinations(sorted(shown), 2) if one[1] != other[1]
    )
    ((one, other), count) = min(pairs.items(), key=lambda item: (-item[1], item[0]))
    verb = "is" if len(aside) == 1 else "are"
    example = f"{one[0]} ({one[1]}) and {other[0]} ({other[1]}) share {format_count(count, 'photo')}"
    if frozen:
        cause = "People keep their splits because a frozen set exists."
        way_out = "In a new dataset, people who share photos go to the same split."
    elif listed:
        cause = "An imported list names splits."
        way_out = "Give people who share photos the same split in the list."
    else:
        cause = "Val and test need people of their own."
        way_out = "--split-by photos sets no face aside, but then val and test show people of train."
    return [
        f"{format_count(len(aside), 'face')} {verb} set aside, because a photo shows people of two splits. For "
        f"example, {example}. {cause} {way_out}"
    ]


def describe_empty_splits(rows: Sequence[Split], rules: SplitRules) -> list[str]:
    """Returns a notice if val or test is empty although three or more people have two faces, or an empty list."""
    faces_of = Counter(row.identity_id for row in rows if row.status == "ok")
    people = sum(count > 1 for count in faces_of.values())
    filled = {row.split for row in rows}
    empty = [name for name in SPLITS if name not in filled and {"val": rules.val, "test": rules.test}.get(name, 1) > 0]
    if not empty or people < 3 or any(row.locked for row in rows) or rules.policy != "identity":
        return []
    splits, verb = (empty[0], "is") if len(empty) == 1 else (" and ".join(empty), "are")
    return [
        f"{splits.capitalize()} {verb} empty, because most of the {people} people share photos, and dividing them "
        "would set too many faces aside. Add photos of other people, or give --split-by photos."
    ]
