"""Functions that the nodes of a cluster, and the process that uses Ray, run in tests.

The module imports little, so that new processes start soon.
"""

from __future__ import annotations

import os

from manifests.errors import BadInput
from manifests.runtime.cluster import ray_calls
from manifests.runtime.workers import FailedUnit, guard_units
from tests.doubles.commands.misbehaviour import misbehave


def work(batch: list) -> list:
    return [unit.reason if isinstance(unit, FailedUnit) else misbehave(unit) or unit for unit in guard_units(batch)]


def refuse(batch: list) -> list:
    raise BadInput(f"not {batch}")


def lack_models(_: None) -> None:
    raise BadInput("The folder of the face models is missing.")


# --- in the process that uses Ray ---


def begin_failing_task() -> int:
    import ray

    return ray_calls._hold_result(ray.remote(lambda: 1 / 0).remote())


def begin_waiting_task() -> int:
    """Begins a task that waits for a GPU."""
    import ray

    return ray_calls._hold_result(ray.remote(num_gpus=1)(lambda: 1).remote())


def raise_as_ray() -> None:
    raise ValueError("an error of Ray")


def end_as_ray_does() -> None:
    os.write(2, b"a line of Ray\n")
    os._exit(1)
