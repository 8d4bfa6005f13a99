"""One map for any number of workers: the same results in the same order, and a sentence where a worker dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.errors import BadInput, LikenessError
from manifests.workers import default_workers, mapper


def square(x: int) -> int:
    return x * x


def refuse(x: int) -> int:
    raise BadInput(f"not {x}")


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_results_keep_their_order_and_errors_keep_their_class(workers):
    with mapper(workers) as run:
        assert list(run(square, range(30))) == [x * x for x in range(30)]
        assert list(run(square, [])) == []
        with pytest.raises(BadInput, match="not 3"):
            list(run(refuse, [3]))


def hears_interrupts(_: int) -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_is_for_the_parent_alone():
    with mapper(2) as run:
        assert list(run(hears_interrupts, range(4))) == [False] * 4
    assert hears_interrupts(0)
    with pytest.raises(KeyboardInterrupt), mapper(2) as run:
        for _ in run(square, range(4)):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("workers", [0, -1, 10**6])
def test_a_senseless_number_of_workers_is_refused(workers):
    with pytest.raises(BadInput, match="--workers must be at least 1"), mapper(workers):
        pass


def test_work_is_handed_out_a_little_at_a_time():
    with mapper(None) as run:
        assert next(run(square, range(10**9))) == 0


def test_less_than_one_worker_is_refused():
    with pytest.raises(BadInput, match="--workers"), mapper(0):
        pass
    assert default_workers() >= 1


def test_a_worker_that_dies_is_a_sentence():
    with pytest.raises(LikenessError, match="fewer --workers"), mapper(2) as run:
        list(run(die, [1, 2]))


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from manifests.workers import mapper\nwith mapper(2) as run: print(list(run(abs, [1])))\n")
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "__main__" in ran.stderr.splitlines()[-1]
