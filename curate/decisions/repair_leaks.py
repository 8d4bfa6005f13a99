"""Records decisions that end the leaks between the splits of a dataset. Every later run applies the decisions again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.decisions.decide import decide
from curate.people.leaks.dataset_faces import read_faces, read_unused_frozen_faces
from curate.people.leaks.find_leaks import read_leak_search, search_leaks
from curate.people.leaks.plan_repair import RepairPlan, plan_repair
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Pair, Split
from manifests.runtime.progress import Progress

# A repair has up to ROUNDS rounds, because a new division into splits can cause new leaks. Before round MOVES, people
# may move to another split. From round MOVES on, no person moves, and faces are only dropped, so that the repair ends.
ROUNDS, MOVES = 8, 4
_ALL = 1 << 62  # no limit for the number of leaks that a search returns


@dataclass(frozen=True)
class Repair:
    """The result of a repair."""

    leaks_before: int
    leaks_after: int
    # Pairs of people who are in one split now; the person with more faces is first.
    together: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]  # Faces that are not used any more.
    targets: int  # Number of targets before the repair.
    targets_moved: int  # Number of targets that are in another split now.
    targets_lost: int  # Number of faces that were targets and are not targets any more.
    decisions: tuple[int, ...]  # Numbers of the recorded decisions, for `likeness decide DATASET undo NUMBER`.


def repair_leaks(dataset: Path, dry_run: bool = False, progress: Progress = lambda *_: None) -> Repair:
    """Records decisions until nothing leaks, and returns the changes. plan_repair.py chooses the decisions.

    With `dry_run`, nothing is written, and the result has the decisions of the first round.
    """
    before, plan, leaks = _read_targets(dataset), *_plan_round(dataset, 0, progress)
    first, together, dropped, numbers = leaks, list(plan.together), list(plan.dropped), []
    for number in range(1, ROUNDS + 1):
        requests = _make_requests(plan)
        if dry_run or not requests:
            break
        outcome = decide(dataset, requests, progress=progress)
        numbers += [decision[0] for decision in outcome.decisions]
        plan, leaks = _plan_round(dataset, number, progress)
        together += plan.together
        dropped += plan.dropped
    after = before if dry_run else _read_targets(dataset)
    return Repair(
        leaks_before=first,
        leaks_after=leaks,
        together=tuple(together),
        dropped=tuple(dropped),
        targets=len(before),
        targets_moved=sum(after.get(target, split) != split for target, split in before.items()),
        targets_lost=len(before.keys() - after.keys()),
        decisions=tuple(numbers),
    )


def _plan_round(dataset: Path, number: int, progress: Progress) -> tuple[RepairPlan, int]:
    """Returns the decisions that end the present leaks, and the number of these leaks."""
    with Ledger.open(dataset) as ledger:
        check_decisions_applied(ledger)
        search = read_leak_search(ledger)
        faces = {line.face: line for line in (*read_faces(ledger), *read_unused_frozen_faces(ledger))}
        locked = {row.face_id for row in ledger.read_rows(Split) if row.locked}
    found = search_leaks(search, _ALL, progress)
    return plan_repair(found.examples, faces, locked, number < MOVES and not locked), found.total


def _make_requests(plan: RepairPlan) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = [{"kind": "together", "sides": list(pair)} for pair in plan.together]
    return requests + ([{"kind": "drop", "faces": plan.dropped}] if plan.dropped else [])


def _read_targets(dataset: Path) -> Mapping[str, str]:
    """Returns target -> split."""
    with Ledger.open(dataset) as ledger:
        return {row.target: row.split for row in ledger.read_rows(Pair)}
