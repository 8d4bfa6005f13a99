"""Tests that any number of workers gives the same results in the same order, and that a dead worker gives an error."""

import os
import signal
import subprocess
import sys

import pytest

from manifests.errors import BadInput, LikenessError
from manifests.runtime.workers import FailedUnit, count_cores, guard_units, is_retry, open_pool
from tests.doubles.commands.misbehaviour import RIGHT, misbehave, short
from tests.places import REPOSITORY


def square(x: int) -> int:
    return x * x


def refuse(x: int) -> int:
    raise BadInput(f"not {x}")


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_results_keep_their_order_and_errors_keep_their_class(workers):
    with open_pool(workers) as run:
        assert list(run(square, range(30))) == [x * x for x in range(30)]
        assert list(run(square, [])) == []
        with pytest.raises(BadInput, match="not 3"):
            list(run(refuse, [3]))


def hears_interrupts(_: int) -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_is_for_the_parent_alone():
    with open_pool(2) as run:
        assert list(run(hears_interrupts, range(4))) == [False] * 4
    assert hears_interrupts(0)
    with pytest.raises(KeyboardInterrupt), open_pool(2) as run:
        for _ in run(square, range(4)):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("workers", [0, -1, 10**6])
def test_a_senseless_number_of_workers_is_refused(workers):
    with pytest.raises(BadInput, match="--workers must be at least 1"), open_pool(workers):
        pass


def test_work_is_handed_out_a_little_at_a_time():
    with open_pool(None) as run:
        assert next(run(square, range(10**9))) == 0


def test_less_than_one_worker_is_refused():
    with pytest.raises(BadInput, match="--workers"), open_pool(0):
        pass
    assert count_cores() >= 1


def test_a_worker_that_dies_is_a_sentence():
    with pytest.raises(LikenessError, match="fewer --workers"), open_pool(2) as run:
        list(run(die, [1, 2]))


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from manifests.runtime.workers import open_pool\nwith open_pool(2) as run: print(list(run(abs, [1])))\n"
    )
    root = REPOSITORY
    ran = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "__main__" in ran.stderr.splitlines()[-1]


# --- units ---


def work(batch: list) -> list:
    return [unit.reason if isinstance(unit, FailedUnit) else misbehave(unit) or unit for unit in guard_units(batch)]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_unit_that_hangs_dies_or_starves_costs_itself_alone(processes):
    batches = [["a", "hang", "b"], ["c"], ["die", "d", "starve"], ["e", "f"], ["abort"]]
    with open_pool(processes, short) as run:
        found = list(run(work, batches))
    assert found == [[RIGHT.get(unit, unit) for unit in batch] for batch in batches]


def at_the_end(batch: list) -> list:
    done = work(batch)
    misbehave("die")
    return done


def test_what_is_done_after_the_units_is_on_no_units_account():
    with pytest.raises(LikenessError, match="fewer --workers"), open_pool(1) as run:
        list(run(at_the_end, [["a"]]))


def unequal(batch: list) -> list:
    """Hangs at the first attempt but not at the second attempt, as if the machine had been stopped for a while."""
    for _ in guard_units(batch):
        if not is_retry():
            misbehave("hang")
    return batch


def test_a_machine_that_was_stopped_is_no_fault_of_the_photo():
    with open_pool(1, short) as run:
        assert list(run(unequal, [["a"]])) == [["a"]]
