"""Finds the pairs of faces that leak between splits. A page shows the two faces of each pair side by side.

The ledger keeps only the counts of the last search, because pairs would name faces. The page therefore starts a new
search in the background.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.decisions.repair_leaks import Repair, repair_leaks
from curate.people.leaks.find_leaks import KINDS, Leak, read_leak_search, search_leaks
from curate.review.web.background import Report
from manifests.ledger.leak_audit import STAGE, find_audit_problems, hash_splits
from manifests.ledger.ledger import Ledger
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import display_path

PAIRS = 200  # largest number (ours) of pairs of each kind that the page shows; the most similar pairs are shown

# Maps a kind of leak to a text that follows the number of pairs, such as "3 pairs".
MEANINGS = {
    "identity": "of faces of one person are in two splits",
    "photo": "of faces of one photo are in two splits",
    "near_duplicate": "of faces in two splits are near-duplicates",
    "cosine": "of faces in two splits seem to show one person",
    "own_reference": "of faces are a target and a reference that shows the target itself or its photo",
}
_FACES = """
SELECT f.face_id, m.identity_id, i.name, min(u.uri) FILTER (u.status = 'ok') AS uri
FROM faces f LEFT JOIN memberships m ON m.face_id = coalesce(f.duplicate_of, f.face_id)
LEFT JOIN identities i ON i.identity_id = m.identity_id LEFT JOIN files u ON u.photo_id = f.photo_id
WHERE list_contains(?, f.face_id) GROUP BY ALL"""


@dataclass(frozen=True)
class LeakEnd:
    """One of the two faces of a leak."""

    face_id: str
    split: str
    identity_id: str | None
    name: str | None
    file: str


@dataclass(frozen=True)
class LeakPair:
    """A pair of faces that leak."""

    kind: str
    one: LeakEnd
    other: LeakEnd
    cosine: float | None
    what: str


@dataclass(frozen=True)
class Audit:
    """What the ledger knows about leaks without a search."""

    key: str  # The present hash of the splits, the near-duplicates and the pairs.
    counts: Mapping[str, int]  # Maps a kind of leak to the number of leaks that the last search found.
    problems: tuple[str, ...]  # The sentences of `manifest check` about leaks.
    is_current: bool  # Whether the splits have not changed since the last search.
    expected: float  # Expected number of pairs of strangers whose cosine reaches the threshold.
    unchecked: tuple[str, ...]

    @property
    def needs_search(self) -> bool:
        """Returns True if the page must search for pairs, because the counts are old or because there are leaks."""
        return bool(self.counts) and (not self.is_current or any(self.counts.values()))


def read_audit(ledger: Ledger) -> Audit:
    """Returns the result of the last search for leaks. Without a search, the counts are empty."""
    detail = ledger.read_detail(STAGE)
    key = hash_splits(ledger)
    counts = {kind: int(detail.get("counts", {}).get(kind, 0)) for kind in KINDS} if detail else {}
    return Audit(
        key,
        counts,
        tuple(find_audit_problems(ledger)),
        bool(detail) and detail["splits"] == key,
        float(detail.get("expected_pairs", 0.0)),
        tuple(detail.get("unchecked", ())),
    )


def search_pairs(dataset: Path, report: Report) -> list[LeakPair]:
    """Searches the splits for leaks, and returns at most PAIRS pairs of each kind, in the order of KINDS."""
    with Ledger.open(dataset) as ledger:  # the ledger is closed during the search, so that other commands can write
        search = read_leak_search(ledger)
    leaks = search_leaks(search, PAIRS, report)
    with Ledger.open(dataset) as ledger:
        return _describe_leaks(ledger, sorted(leaks.examples, key=lambda leak: KINDS.index(leak.kind)))


def _describe_leaks(ledger: Ledger, leaks: Sequence[Leak]) -> list[LeakPair]:
    faces = sorted({face for leak in leaks for face in (leak.one, leak.other)})
    row_of: dict[str, dict[str, Any]] = {
        row["face_id"]: row for row in ledger.query(_FACES, faces).iter_rows(named=True)
    }

    def describe(face: str, split: str) -> LeakEnd:
        row = row_of.get(face, {"identity_id": None, "name": None, "uri": None})  # erased during the search
        file = "" if row["uri"] is None else make_printable(display_path(row["uri"]).name)
        return LeakEnd(face, split, row["identity_id"], row["name"], file)

    return [
        LeakPair(
            leak.kind, describe(leak.one, leak.one_split), describe(leak.other, leak.other_split), leak.value, leak.what
        )
        for leak in leaks
    ]


def group_pairs(pairs: Sequence[LeakPair]) -> dict[str, list[LeakPair]]:
    """Returns the pairs by kind, in the order of KINDS."""
    groups: dict[str, list[LeakPair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.kind].append(pair)
    return dict(groups)


def plan_repair(dataset: Path, report: Report) -> Repair:
    """Returns the decisions of the first round of a repair. Nothing is written."""
    return repair_leaks(dataset, dry_run=True, progress=report)


def run_repair(dataset: Path, report: Report) -> Repair:
    """Records decisions until nothing leaks, as `likeness leaks DATASET --repair` does."""
    return repair_leaks(dataset, progress=report)


def has_decisions(repair: Repair) -> bool:
    """Returns whether a repair has decisions to record."""
    return bool(repair.together or repair.dropped)


def describe_plan(repair: Repair) -> str:
    """Returns sentences that say what a repair will do."""
    if not has_decisions(repair):
        return "No decision can end these leaks: the faces are in frozen sets."
    changes = [
        f"moves {format_count(len(repair.together), 'person', 'people')} into the split of another person"
    ] * bool(repair.together)
    changes += [f"drops {format_count(len(repair.dropped), 'face')}"] * bool(repair.dropped)
    records = "The repair records these changes as decisions. You can take each decision back."
    return f"The repair {' and '.join(changes)}. {records}"


def describe_repair(repair: Repair) -> str:
    """Returns sentences that say what a repair did."""
    count = len(repair.decisions)
    undo = f"The repair recorded {format_count(count, 'decision')}. Undo takes {'it' if count == 1 else 'them'} back."
    return (
        f"The repair ended {repair.leaks_before - repair.leaks_after} of {format_count(repair.leaks_before, 'leak')}. "
        f"{format_count(repair.targets_moved, 'target')} moved to another split, and {repair.targets_lost} of "
        f"{format_count(repair.targets, 'target')} are not targets any more. "
        + (undo if count else "No decision was recorded.")
    )
