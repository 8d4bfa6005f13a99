"""Records which decisions of the log are already applied to the people, splits and pairs of a dataset.

A decision is first recorded and then applied. `likeness decide` usually does both in one call. The stage `group`
records the number of the last decision that is applied to the people. The stage `apply` records the number of the last
decision that is applied to people, splits and pairs, after these were searched for leaks. If a command was killed
between the two stages, the two numbers differ.
"""

from __future__ import annotations

from collections.abc import Sequence

from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import Decision, parse_decision
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow
from manifests.runtime.text import format_count

APPLY_STAGE = "apply"
LAST_DECISION = "last_decision"  # the details of both stages have this key


def read_last_decision(ledger: Ledger) -> int:
    """Returns the number of the newest decision, even if a purge has removed it. Returns 0 without a decision."""
    newest = ledger.query("SELECT coalesce(max(decision_id), 0) AS n FROM decisions")["n"][0]
    return max(int(newest), read_grouped_decision(ledger), _read_applied_decision(ledger))


def read_grouped_decision(ledger: Ledger) -> int:
    """Returns the number of the last decision that is applied to `identities` and `memberships`, or 0."""
    return int(ledger.read_detail("group").get(LAST_DECISION, 0))


def read_decision_batches(ledger: Ledger) -> list[list[Decision]]:
    """Returns the decisions that are not yet applied to the table `memberships`, from the oldest to the newest.

    Each list has the decisions that one command recorded together. These decisions have the same time.
    """
    batches: dict[object, list[Decision]] = {}
    for row in ledger.read_rows(DecisionRow, "decision_id > ?", read_grouped_decision(ledger)):
        batches.setdefault(row.made, []).append(parse_decision(row))
    return list(batches.values())


def mark_decisions_applied(ledger: Ledger, number: int) -> None:
    """Records that the decisions up to `number` are applied, and that the new splits were searched for leaks."""
    ledger.record(APPLY_STAGE, "all", {}, detail={LAST_DECISION: number})


def count_unapplied_decisions(ledger: Ledger) -> int:
    """Returns the number of recorded decisions that are not yet applied."""
    count = "SELECT count(*) AS n FROM decisions WHERE decision_id > ?"
    return int(ledger.query(count, _read_applied_decision(ledger))["n"][0])


def read_unapplied_decisions(ledger: Ledger) -> list[Decision]:
    """Returns the recorded decisions that are not yet applied, from the oldest to the newest."""
    return [
        parse_decision(row) for row in ledger.read_rows(DecisionRow, "decision_id > ?", _read_applied_decision(ledger))
    ]


def describe_unapplied_decisions(ledger: Ledger) -> str | None:
    """Returns a sentence for the user, or None if all decisions are applied."""
    count = count_unapplied_decisions(ledger)
    if not count:
        return None
    verb = "is" if count == 1 else "are"
    return (
        f"{format_count(count, 'decision')} of {ledger.dataset} {verb} not applied yet. Run `likeness decide "
        f"{ledger.dataset} apply` first."
    )


def check_decisions_applied(ledger: Ledger) -> None:
    """Raises BadInput if a recorded decision is not yet applied.

    Commands that read people, splits or pairs call this function, so that their results follow all decisions.
    """
    if (sentence := describe_unapplied_decisions(ledger)) is not None:
        raise BadInput(sentence)


def find_last_number(decisions: Sequence[Decision]) -> int:
    """Returns the largest number of these decisions, or 0 without a decision."""
    return max((decision.number for decision in decisions), default=0)


def _read_applied_decision(ledger: Ledger) -> int:
    return int(ledger.read_detail(APPLY_STAGE).get(LAST_DECISION, 0))
