"""Tests SIGKILL at any moment: if the command runs again, it must give the results of an undisturbed command.

No other file may be left. `make test` uses one moment of three stages. `make faults` uses many moments of all stages,
and docs/faults.md shows the results.
"""

import numpy as np
import pytest

from tests.doubles.faults import faults as doubles
from tests.doubles.faults.faults import FULL, SEED, Point, Stage, points, tried

pytestmark = pytest.mark.slow

# For each stage: the number of points in `make faults`, and the number of points in `make test`.
STAGES: dict[Stage, tuple[int, int]] = {
    doubles.curate: (14, 1),
    doubles.curate_in_two: (5, 0),
    doubles.mend: (8, 0),
    doubles.degrade: (10, 0),
    doubles.degrade_in_two: (3, 0),
    doubles.degrade_folder: (6, 1),
    doubles.replay: (3, 0),
    doubles.train: (10, 1),
    doubles.freeze: (4, 0),
    doubles.evaluate: (3, 0),
    doubles.restore: (3, 0),
    doubles.iterate: (10, 0),
    doubles.export: (3, 0),
    doubles.purge: (6, 0),
}
MUST = (
    "If the same command runs again, the ledger and the files are the same as after an undisturbed run. `manifest "
    "check` finds no problem, and no file is left over."
)


@pytest.mark.parametrize(
    "stage", [stage for stage, counts in STAGES.items() if counts[not FULL]], ids=lambda stage: stage.__name__
)
def test_a_killed_command_ends_as_if_it_had_not_been(world, stage):
    command, undisturbed, moments = world.undisturbed(stage)
    if stage is doubles.iterate:
        assert any(name.startswith("ds/versions/") for name in undisturbed), "nothing was cleaned"
    rng = np.random.default_rng([SEED, list(STAGES).index(stage)])
    wrong = []
    for point in points(len(moments), STAGES[stage][not FULL], rng):
        try:
            with tried("SIGKILL at a chosen moment", stage, point, MUST) as note:
                world.begin(stage)
                # If the point is some milliseconds after one of the last moments, the command may end before the point.
                if not world.bench.strike(command, point):
                    note["outcome"] = "had ended before"
                world.ends_as(command, undisturbed)
        except AssertionError as error:
            wrong.append(f"{point}, {moments[int(point.at) - 1]}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not FULL, reason="`make faults` tries it")
@pytest.mark.parametrize("stage", [doubles.curate, doubles.degrade, doubles.train], ids=lambda stage: stage.__name__)
def test_a_command_that_is_killed_again_and_again_and_by_the_clock(world, stage):
    command, undisturbed, _ = world.undisturbed(stage)
    took, rng = world.seconds[stage], np.random.default_rng([SEED, 100])
    world.begin(stage)
    with tried("SIGKILL five times in a row", stage, "each a few moments later", MUST):
        for _ in range(5):  # each new start counts its moments from 1 again
            world.bench.strike(command, Point(str(int(rng.integers(3, 14))), "after"))
        world.ends_as(command, undisturbed)
    for share in rng.uniform(0.3, 0.8, 2):
        world.begin(stage)
        point = Point(seconds=float(share) * took)
        with tried("SIGKILL after a fixed time", stage, point, MUST) as note:
            if not world.bench.strike(command, point):
                note["outcome"] = "had ended before"
            world.ends_as(command, undisturbed)
