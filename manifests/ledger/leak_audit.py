"""Records and reads the result of the last search for leaks.

`curate` and `likeness leaks` record the result, and `manifest check` reads the result. The result contains the number
of leaks of each kind, and a hash of the splits and pairs that were searched. The result names no face.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from manifests.ledger.ledger import DetailUpdate, Ledger
from manifests.ledger.queries import read_units

STAGE = "leaks"
_SPLITS = "SELECT face_id, identity_id, split, policy FROM splits WHERE status = 'ok' ORDER BY face_id"
_COPIES = "SELECT face_id, duplicate_of FROM faces WHERE reason = 'near_duplicate' ORDER BY face_id"
_PAIRS = "SELECT target, refs FROM pairs ORDER BY target"


def hash_splits(ledger: Ledger, removed: Collection[str] = ()) -> str:
    """Returns a hash of everything that decides whether something leaks: splits, people, near-duplicates and pairs.

    The hash leaves out the faces `removed`, as if they had already been removed from the ledger.
    """
    digest = hashlib.sha256()
    for face, *rest in ledger.query(_SPLITS).iter_rows():
        if face not in removed:
            digest.update(json.dumps([face, *rest]).encode())
    for face, original in ledger.query(_COPIES).iter_rows():
        if face not in removed and original not in removed:
            digest.update(json.dumps([face, original]).encode())
    for target, every in ledger.query(_PAIRS).iter_rows():
        if target not in removed and (refs := [ref for ref in every if ref not in removed]):
            digest.update(json.dumps([target, refs]).encode())
    return digest.hexdigest()


def plan_audit_update(ledger: Ledger, removed: Collection[str]) -> list[DetailUpdate]:
    """Returns the update that keeps the recorded result valid when the faces `removed` are removed.

    No new search is needed, because a removal puts no face into another split. The counts stay the same until the next
    search. Returns an empty list if the recorded result is not valid now.
    """
    for stage, unit, config_hash, detail in read_units(ledger, STAGE):
        if detail["splits"] == hash_splits(ledger):
            return [(stage, unit, config_hash, {**detail, "splits": hash_splits(ledger, removed)})]
    return []


def record_audit(ledger: Ledger, result: dict[str, Any]) -> None:
    """Records the counts of a search for leaks in the present splits."""
    ledger.record(STAGE, "all", {}, detail={**result, "splits": hash_splits(ledger)})


def is_audit_recorded(ledger: Ledger, result: dict[str, Any]) -> bool:
    """Returns whether the ledger has recorded exactly this `result` for the present splits."""
    return ledger.read_detail(STAGE) == {**result, "splits": hash_splits(ledger)}


def find_audit_problems(ledger: Ledger) -> list[str]:
    """Returns a sentence for each kind of leak that the last search found.

    If the present splits were not searched for leaks, returns one sentence that asks the user for a search."""
    if not len(ledger.query("SELECT 1 FROM splits WHERE status = 'ok' LIMIT 1")):
        return []
    audit, command = ledger.read_detail(STAGE), f"`likeness leaks {ledger.dataset}`"
    if not audit:
        return [f"the splits were not searched for leaks: run {command}"]
    if audit["splits"] != hash_splits(ledger):
        return [f"the last search for leaks is older than the splits: run {command}"]
    return [
        f"leaks of the kind {kind}: {count} (list them with {command}, end them with --repair)"
        for kind, count in audit["counts"].items()
        if count
    ]
