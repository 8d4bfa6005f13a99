"""Functions that the nodes of a cluster run in tests. The module imports little, so that new processes start soon."""

from __future__ import annotations

from manifests.errors import BadInput
from manifests.runtime.workers import FailedUnit, guard_units
from tests.doubles.commands.misbehaviour import misbehave


def work(batch: list) -> list:
    return [unit.reason if isinstance(unit, FailedUnit) else misbehave(unit) or unit for unit in guard_units(batch)]


def refuse(batch: list) -> list:
    raise BadInput(f"not {batch}")


def lack_models(_: None) -> None:
    raise BadInput("The folder of the face models is missing.")
