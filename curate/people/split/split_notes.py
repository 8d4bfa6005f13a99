"""Makes sentences for the user about the splits: why a split is empty, and which people change their split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from curate.config import SplitRules
from manifests.ledger.records import SPLITS, Split
from manifests.runtime.text import format_count

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
        "Train such models again into another folder."
    ]


def describe_empty_splits(rows: Sequence[Split], rules: SplitRules) -> list[str]:
    """Returns a notice if val or test is empty although at least three people have two faces. Otherwise returns []."""
    faces_of = Counter(row.identity_id for row in rows if row.status == "ok")
    people = sum(count > 1 for count in faces_of.values())
    filled = {row.split for row in rows}
    empty = [name for name in SPLITS if name not in filled and {"val": rules.val, "test": rules.test}.get(name, 1) > 0]
    if not empty or people < 3 or any(row.locked for row in rows) or rules.policy != "identity":
        return []
    splits, verb = (empty[0], "is") if len(empty) == 1 else (" and ".join(empty), "are")
    return [
        f"{splits.capitalize()} {verb} empty, because most of the {people} people share photos, and a division "
        "of these people would set too many faces aside. Add photos of other people, or give --split-by photos."
    ]
