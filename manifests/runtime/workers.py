"""Runs a stage's function on batches in a pool of worker processes, and returns the results in order.

A batch is a list of units, such as photos. The function reads the units with `guard_units`, which tells the pool which
unit each process works on. A unit fails if it hangs, ends its process or needs too much memory. After a failure, the
pool replaces the process and runs the batch again. If the same unit fails again, a `FailedUnit` with the reason
replaces the unit in the batch, and the function finishes the other units.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from manifests.errors import BadInput, LikenessError

if sys.platform != "win32":
    import resource

BatchMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
Unit = TypeVar("Unit")

MAX_WORKERS = 1024  # The largest allowed number of worker processes (ours).
# We chose the two limits for a unit. The largest allowed picture needs 1.2 GiB of memory, and 19 s on a core that ten
# other processes also use. The memory limit does not count the 300 MiB for libraries and models.
UNIT_SECONDS = 120.0
UNIT_MEMORY = 3 * 2**29  # bytes

# The numbers of glibc's settings in malloc.h, and our values in bytes. glibc accepts at most 32 MiB for the first
# setting.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = (-3, 2**25), (-1, 2**28), (-2, 2**24)

TIMED_OUT, CRASHED, OUT_OF_MEMORY = "timed_out", "crashed", "out_of_memory"
FAILURES = (TIMED_OUT, CRASHED, OUT_OF_MEMORY)
FAILURE_TEXTS = {  # maps a reason to the end of a sentence that begins with the name of a photo
    TIMED_OUT: f"takes more than {UNIT_SECONDS:.0f} s",
    CRASHED: "ends the process that decodes it",
    OUT_OF_MEMORY: "needs too much memory",
}


@dataclass(frozen=True)
class FailedUnit:
    """Takes the place of `unit`, which failed twice. `reason` is one of FAILURES."""

    unit: Any
    reason: str


def check_workers(workers: int) -> None:
    """Raise BadInput if the number of worker processes is below 1 or above MAX_WORKERS."""
    if not 1 <= workers <= MAX_WORKERS:
        raise BadInput(f"--workers must be at least 1 and at most {MAX_WORKERS}, but it is {workers}.")


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- in a worker process ---


@dataclass
class _WorkerState:
    """The state of this worker process. `parent` is None if this process is not a worker process."""

    parent: Connection | None = None
    is_retry: bool = False
    memory: tuple[int, int] = (-1, -1)  # soft and hard memory limit at the start of this process, in bytes


_state = _WorkerState()


def guard_units(units: Sequence[Unit], limited: bool = True) -> Iterator[Unit]:
    """Yields the units of a batch one by one. In a worker process, tells the pool the index of the current unit.

    If `limited` is true, a worker process has UNIT_SECONDS and UNIT_MEMORY for each unit. A FailedUnit is yielded
    unchanged. If the process fails after the last unit, the failure belongs to no unit and ends the whole command.
    """
    for index, unit in enumerate(units):
        if _state.parent is None or isinstance(unit, FailedUnit):
            yield unit
            continue
        _tell_pool(index)
        if not limited:
            yield unit
            continue
        with enforce_limits():
            yield unit
    if _state.parent is not None:
        _tell_pool(None)


@contextmanager
def enforce_limits() -> Iterator[None]:
    """In a worker process, limit the `with` block to UNIT_SECONDS and UNIT_MEMORY. In other processes, do nothing.

    After UNIT_SECONDS, the process is killed, even if it runs code of a library. On Linux, a request for more memory
    than UNIT_MEMORY raises MemoryError.
    """
    if _state.parent is None:
        yield
        return
    try:
        restart_timer()
        _limit_memory(UNIT_MEMORY)
        yield
    finally:
        _lift_limits()


def restart_timer() -> None:
    """Give the current unit UNIT_SECONDS from now on.

    The reader of an archive calls this function after each member.
    """
    if _state.parent is not None and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, UNIT_SECONDS)


def is_retry() -> bool:
    """Returns whether the current batch is a retry after a failure.

    In a retry, a function must finish each unit before it starts the next unit. Otherwise, the pool could not know
    which unit failed.
    """
    return _state.is_retry


def _tell_pool(index: int | None) -> None:
    assert _state.parent is not None
    try:
        _state.parent.send(("at", index))
    except OSError:
        os._exit(1)  # the parent process has ended


def _limit_memory(more: int | None) -> None:
    """Allow this process `more` bytes in addition to its present memory.

    If `more` is None, restore the memory limit of the start of the process.
    """
    if sys.platform != "linux":
        return
    soft, hard = _state.memory
    if more is not None:
        data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        limit = data_pages * resource.getpagesize() + more
        soft = limit if soft == resource.RLIM_INFINITY else min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _lift_limits() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    _limit_memory(None)


def _keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB of freed memory, if its C library is glibc.

    By default, glibc returns the memory of each large array to the system as soon as the array is freed. The system
    must then fill the memory of the next array with zeros. In our measurement, the filling took 7% of the time of
    curation.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for setting, value in (_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD):
            libc.mallopt(setting, value)


def _serve(parent: Connection, start: Callable[[], None] | None) -> None:
    """Runs batches in a worker process until the parent process closes the pipe."""
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _state.memory = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # no core file
    _keep_freed_memory()
    if start is not None:
        start()
    # After this call, the garbage collector no longer visits the objects of the imported libraries, which are never
    # freed. In our profile of curation, these visits took 3% of the time of a worker process.
    gc.freeze()
    _state.parent = parent
    while True:
        try:
            function, batch, _state.is_retry = parent.recv()
        except (EOFError, OSError):
            return
        reply: tuple[str, Any] | None
        try:
            reply = "done", function(batch)
        except MemoryError:
            reply = "lost", OUT_OF_MEMORY
        except Exception as error:
            error.add_note("In a worker process:\n" + traceback.format_exc())
            reply = "raised", error
        _lift_limits()
        try:
            parent.send(reply)
        except OSError:
            return
        except Exception as error:  # the result, or the error of the function, cannot be pickled
            parent.send(("raised", RuntimeError(f"{type(error).__name__}: {error}")))
        reply = None  # an error keeps all data of its batch in memory, so the error is released before the next batch


# --- in the parent process ---


class _Worker:
    """A spawned worker process, and the end of the pipe to it."""

    def __init__(self, start: Callable[[], None] | None, nested: bool) -> None:
        # the process is spawned, because a forked process would inherit the open ledger and the locks of other threads
        context = multiprocessing.get_context("spawn")
        self.pipe, worker_end = context.Pipe()
        # a daemon of multiprocessing cannot start processes
        self.process = context.Process(target=_serve, args=(worker_end, start), daemon=not nested)
        self.process.start()
        worker_end.close()

    def run(self, function: Callable[[Any], Any], batch: Any, is_retry: bool) -> tuple[str, Any, int | None]:
        """Runs a batch. Returns (kind, value, index of the current unit).

        The kind and the value are "done" and the result, "raised" and the error, or "lost" and the reason of the
        failure. The index is None if the process is not working on a unit.
        """
        at = None
        try:
            self.pipe.send((function, batch, is_retry))
            while True:
                kind, value = self.pipe.recv()
                if kind != "at":
                    return kind, value, at
                at = value
        except (EOFError, OSError):
            self.process.join()
            timed_out = sys.platform != "win32" and self.process.exitcode == -signal.SIGALRM
            return "lost", TIMED_OUT if timed_out else CRASHED, at
        except Exception as error:  # the batch or the result cannot be pickled
            return "raised", error, at

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class _Pool:
    """The worker processes of a pool. The parent process has a waiting thread for each running batch."""

    start: Callable[[], None] | None
    nested: bool = False
    idle: list[_Worker] = field(default_factory=list)
    busy: list[_Worker] = field(default_factory=list)
    closed: bool = False

    def run(self, function: Callable[[Any], Any], batch: Any) -> Any:
        """Runs a batch in a worker process. Returns the result of the function, or raises the error of the function.

        Raises LikenessError if a worker process ends while it is not working on a unit.
        """
        is_retry = False
        while True:
            worker = self.idle.pop() if self.idle else _Worker(self.start, self.nested)
            self.busy.append(worker)
            if self.closed:
                worker.end()
                raise LikenessError("The work was interrupted. Run the same command again.")
            kind, value, at = worker.run(function, batch, is_retry)
            self.busy.remove(worker)
            if kind != "lost":
                self.idle.append(worker)
                if kind == "raised":
                    raise value
                return value
            worker.end()  # after a MemoryError, the process is replaced too, because its memory is fragmented
            if at is None or self.closed:
                raise LikenessError(
                    "A worker process ended before its work was done. If memory was short, repeat the command with "
                    "fewer --workers; finished work is kept. If your own script calls Likeness, put the call into an "
                    '`if __name__ == "__main__":` block.'
                )
            if is_retry:
                batch = [*batch[:at], FailedUnit(batch[at], value), *batch[at + 1 :]]
            # the first failure can have another cause than the unit, such as an overloaded machine, so the batch is
            # tried again
            is_retry = True

    def close(self) -> None:
        self.closed = True
        # Killing is safe, because the next command removes the temporary files of killed processes
        for worker in [*self.idle, *self.busy]:
            worker.process.kill()


@contextmanager
def open_pool(workers: int | None, start: Callable[[], None] | None = None, nested: bool = False) -> Iterator[BatchMap]:
    """Yields a function like `map` that runs batches in `workers` spawned processes, and yields the results in order.

    Each process first calls `start`. If `nested` is true, the processes can start processes themselves. At most 4 *
    `workers` batches wait at the same time, so a long list of batches needs little memory. If `workers` is None, the
    work is done in this process and without limits, so a crash ends the command. Pass None only for trusted photos and
    in tests. Raises BadInput if the number of workers is not allowed. Raises LikenessError if a worker process ends
    while it is not working on a unit.
    """
    if workers is None:
        if start is not None:
            start()
        yield lambda function, batches: map(function, batches)
        return
    check_workers(workers)
    pool = _Pool(start, nested)
    # Only the main thread of the parent process must handle Ctrl-C. Therefore the threads that start worker processes
    # block SIGINT, and the worker processes inherit the blocked signal. The resource tracker unblocks SIGINT in the
    # thread that starts the tracker, so the main thread starts the tracker here.
    resource_tracker.ensure_running()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="worker", initializer=_block_interrupts)

    def run(function: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        for batch in batches:
            waiting.append(threads.submit(pool.run, function, batch))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield run
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        pool.close()
        threads.shutdown()
        for worker in pool.idle:
            worker.end()


def _block_interrupts() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
