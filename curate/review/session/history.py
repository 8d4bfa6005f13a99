"""Finds the decisions that the next undo takes back, and the undos that the next redo takes back.

Each undo and each redo is recorded as a decision, so both work after a restart.

One act in the browser can record several decisions. Undo takes all decisions of the act back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.decisions.in_force import find_undos


def find_undo(log: Sequence[Decision], batch_of: Mapping[int, object]) -> list[int]:
    """Returns the numbers of the decisions of the newest act that is in force, the newest number first.

    `batch_of` maps the number of a decision to a value that all decisions of one act share.
    """
    undone = find_undos(log)
    in_force = [one.number for one in log if one.kind != "undo" and one.number not in undone]
    return _find_newest_batch(in_force, batch_of)


def find_redo(log: Sequence[Decision], batch_of: Mapping[int, object]) -> list[int]:
    """Returns the numbers of the undos that redo takes back, the newest number first.

    The list is empty if the newest act is neither an undo nor a redo. After a new act, an earlier undo can no longer be
    taken back.
    """
    undone, kind_of = find_undos(log), {one.number: one.kind for one in log}
    newest_act = max((one.number for one in log if one.kind != "undo"), default=0)
    in_force = [
        one.number
        for one in log
        if one.kind == "undo"
        and one.number > newest_act
        and one.number not in undone
        and kind_of.get(int(one.undoes or 0), "undo") != "undo"
    ]
    return _find_newest_batch(in_force, batch_of)


def _find_newest_batch(numbers: Sequence[int], batch_of: Mapping[int, object]) -> list[int]:
    if not numbers:
        return []
    newest = max(numbers)
    batch = batch_of.get(newest, newest)
    return sorted((number for number in numbers if batch_of.get(number, number) == batch), reverse=True)
