"""The stage `leaks`: searches the splits for leaks, and records the counts in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curate.people.leaks.find_leaks import Leaks, find_ledger_leaks
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.leak_audit import is_audit_recorded, record_audit
from manifests.ledger.ledger import Ledger
from manifests.runtime.progress import Progress


def audit_leaks(ledger: Ledger, progress: Progress = lambda *_: None) -> Leaks:
    """Searches the splits for leaks, records the counts, and returns the leaks. Without splits, the result has no
    leaks.
    """
    has_splits = len(ledger.query("SELECT 1 FROM splits WHERE status = 'ok' LIMIT 1"))
    leaks = find_ledger_leaks(ledger, progress=progress) if has_splits else Leaks(0)
    record_audit(ledger, _make_detail(leaks))
    return leaks


def audit_dataset(dataset: Path, limit: int = 20, progress: Progress = lambda *_: None) -> Leaks:
    """Opens a dataset, and does the same as `audit_leaks`. `limit` is the largest number of examples of each kind.

    If the ledger already contains the result, nothing is written, so a dataset on a read-only disk can be searched.
    Raises BadInput if the dataset was not curated completely.
    """
    with Ledger.open(dataset) as ledger:
        check_decisions_applied(ledger)
        leaks = find_ledger_leaks(ledger, limit, progress)
        is_recorded = is_audit_recorded(ledger, _make_detail(leaks))
    if not is_recorded:
        with Ledger.open(dataset, write=True) as ledger:
            record_audit(ledger, _make_detail(leaks))
    return leaks


def _make_detail(leaks: Leaks) -> dict[str, Any]:
    """Returns the counts of a search. The examples of the search are left out, because examples name faces."""
    return {key: value for key, value in leaks.as_json().items() if key not in ("examples", "limit", "ok")}
