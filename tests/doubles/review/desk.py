"""Records decisions in memory, as the review does, without writing them into the ledger."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.decisions.plan_requests import PlannedRequests, plan_requests
from curate.decisions.record import Desk, read_desk
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.ledger import Ledger


def read_desk_of(dataset: Path) -> Desk:
    with Ledger.open(dataset) as ledger:
        return read_desk(ledger)


def copy_desk(desk: Desk) -> Desk:
    desk = copy.deepcopy(desk)
    desk.lookup.people = desk.people
    return desk


def read_nothing(faces: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    """Reads no embeddings, like the function that reads a ledger without embeddings."""
    return [], np.zeros((0, 0), np.float32)


def plan(desk: Desk, requests: list[dict[str, Any]]) -> PlannedRequests:
    """Returns what one command would record. The desk does not change."""
    return plan_requests(
        requests, desk.lookup, desk.photos, desk.last_number, read_nothing, lambda decisions, people: None
    )


def record(desk: Desk, requests: list[dict[str, Any]]) -> list[Decision]:
    """Records decisions as one command, and returns them."""
    planned = plan(desk, requests)
    if planned.change is not None:
        desk.people.follow(planned.decisions, planned.change)
    desk.last_number += len(planned.decisions)
    return planned.decisions


def list_people(desk: Desk, without: set[str] | None = None) -> set[frozenset[str]]:
    own = (frozenset(faces) - (without or set()) for faces in desk.people.members.values())
    return {faces for faces in own if faces}
