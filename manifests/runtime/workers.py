"""The pool of worker processes: it applies a stage's function to batches, and returns the results in order.

The function goes through the units of its batch with `guard_units`, so the pool knows which unit each process works
on. A unit that hangs, ends its process or needs too much memory does not stop the others: the pool replaces the
process and runs the batch once more. If the unit fails again, the batch holds a `FailedUnit` in its place, and the
reason goes into the row of the unit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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

BatchMap = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
Unit = TypeVar("Unit")

MAX_WORKERS = 1024  # more processes than any machine of today has cores for (ours)
# Limits of one unit (both ours). The largest picture that is decoded needs 1.2 GiB, and 19 s on a core that ten other
# processes use. The 300 MiB of libraries and models do not count.
UNIT_SECONDS = 120.0
UNIT_MEMORY = 3 * 2**29  # bytes

TIMED_OUT, CRASHED, OUT_OF_MEMORY = "timed_out", "crashed", "out_of_memory"
FAILURES = (TIMED_OUT, CRASHED, OUT_OF_MEMORY)
FAILURE_TEXTS = {  # the rest of a sentence about a photo
    TIMED_OUT: f"takes more than {UNIT_SECONDS:.0f} s",
    CRASHED: "ends the process that decodes it",
    OUT_OF_MEMORY: "needs too much memory",
}


@dataclass(frozen=True)
class FailedUnit:
    """A unit that failed in two processes; it takes the place of the unit in its batch. `reason` is one of FAILURES."""

    unit: Any
    reason: str


def check_workers(workers: int) -> None:
    """Raise BadInput if the number of worker processes is below 1 or above MAX_WORKERS."""
    if not 1 <= workers <= MAX_WORKERS:
        raise BadInput(f"--workers must be at least 1 and at most {MAX_WORKERS}, not {workers}.")


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- in a worker process ---


@dataclass
class _Here:
    """The facts that this process has about its pool. With the defaults, this process is no worker."""

    parent: Connection | None = None
    is_retry: bool = False
    memory: tuple[int, int] = (-1, -1)  # soft and hard limit of memory at the start of this process, bytes


_here = _Here()


def guard_units(units: Sequence[Unit], limited: bool = True) -> Iterator[Unit]:
    """Yields the units of a batch in turn. A worker process tells the pool which unit it works on.

    If `limited`, a worker process has UNIT_SECONDS and UNIT_MEMORY for each unit. A FailedUnit is yielded as it is.
    A failure after the last unit belongs to no unit, and ends the whole command.
    """
    for index, unit in enumerate(units):
        if _here.parent is None or isinstance(unit, FailedUnit):
            yield unit
            continue
        _tell_pool(index)
        if not limited:
            yield unit
            continue
        with enforce_limits():
            yield unit
    if _here.parent is not None:
        _tell_pool(None)


@contextmanager
def enforce_limits() -> Iterator[None]:
    """In a worker process, limit the work inside to UNIT_SECONDS and UNIT_MEMORY. In other processes, do nothing.

    After UNIT_SECONDS the process is killed, even inside the code of a library. Beyond UNIT_MEMORY, Linux refuses
    memory, which raises MemoryError.
    """
    if _here.parent is None:
        yield
        return
    try:
        restart_timer()
        _limit_memory(UNIT_MEMORY)
        yield
    finally:
        _lift_limits()


def restart_timer() -> None:
    """Give the current unit another UNIT_SECONDS. Work that makes progress, as in a large archive, calls this."""
    if _here.parent is not None and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, UNIT_SECONDS)


def is_retry() -> bool:
    """Returns whether this batch runs again after a failure.

    In a retry, a function must not start later units ahead of their turn. Otherwise the pool cannot tell which unit
    failed.
    """
    return _here.is_retry


def _tell_pool(index: int | None) -> None:
    assert _here.parent is not None
    try:
        _here.parent.send(("at", index))
    except OSError:
        os._exit(1)  # the parent process has ended


def _limit_memory(more: int | None) -> None:
    """Allow `more` bytes beyond the memory that this process holds now. None restores the limit of the start."""
    if sys.platform != "linux":
        return
    soft, hard = _here.memory
    if more is not None:
        data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        limit = data_pages * resource.getpagesize() + more
        soft = limit if soft == resource.RLIM_INFINITY else min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _lift_limits() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    _limit_memory(None)


def _serve(parent: Connection, start: Callable[[], None] | None) -> None:
    """The main function of a worker process: it receives batches until the parent closes the pipe."""
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _here.memory = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # no core files
    if start is not None:
        start()
    _here.parent = parent
    while True:
        try:
            function, batch, _here.is_retry = parent.recv()
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
        except Exception as error:  # the result or the error cannot be pickled
            parent.send(("raised", RuntimeError(f"{type(error).__name__}: {error}")))
        reply = None  # an error holds all data of its batch; release them before the next batch


# --- in the parent process ---


class _Worker:
    """One spawned process, and the parent's end of the pipe to it."""

    def __init__(self, start: Callable[[], None] | None) -> None:
        # a forked process would inherit the open ledger and the threads of other libraries
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, start), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, function: Callable[[Any], Any], batch: Any, is_retry: bool) -> tuple[str, Any, int | None]:
        """Returns the outcome and the index of the current unit.

        The outcome is ("done", result), ("raised", error) or ("lost", reason).
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
    """The worker processes. While a worker runs a batch, one thread of the parent waits for it."""

    start: Callable[[], None] | None
    idle: list[_Worker] = field(default_factory=list)
    busy: list[_Worker] = field(default_factory=list)
    closed: bool = False

    def run(self, function: Callable[[Any], Any], batch: Any) -> Any:
        """Returns the function's result for a batch, and raises the function's errors.

        Raises LikenessError if a worker process ends while it works on no unit.
        """
        is_retry = False
        while True:
            worker = self.idle.pop() if self.idle else _Worker(self.start)
            self.busy.append(worker)
            if self.closed:
                worker.end()
                raise LikenessError("The work was interrupted.")
            kind, value, at = worker.run(function, batch, is_retry)
            self.busy.remove(worker)
            if kind != "lost":
                self.idle.append(worker)
                if kind == "raised":
                    raise value
                return value
            worker.end()  # also after a MemoryError, which leaves the memory of the process fragmented
            if at is None or self.closed:
                raise LikenessError(
                    "A worker process ended before its work was done. If memory was short, repeat the command with "
                    "fewer --workers; finished work is kept. If your own script made the call, the script needs an "
                    '`if __name__ == "__main__":`.'
                )
            if is_retry:
                batch = [*batch[:at], FailedUnit(batch[at], value), *batch[at + 1 :]]
            # the first failure may be that of a stopped or overloaded machine, so the unit is tried again
            is_retry = True

    def close(self) -> None:
        self.closed = True
        for worker in [*self.idle, *self.busy]:  # the next command removes half-written files
            worker.process.kill()


@contextmanager
def open_pool(workers: int | None, start: Callable[[], None] | None = None) -> Iterator[BatchMap]:
    """Yields a function like `map` that keeps order, and runs in `workers` spawned processes.

    Each process calls `start` first. With `workers` None the work runs in this process, without limits, and a crash
    ends the command: this is for trusted photos and for tests. Few batches wait at a time, so a long list costs no
    memory. Raises BadInput for a bad number of workers. Raises LikenessError if a worker process ends while it works
    on no unit.
    """
    if workers is None:
        if start is not None:
            start()
        yield lambda function, batches: map(function, batches)
        return
    check_workers(workers)
    pool = _Pool(start)
    # Only the main thread of the parent handles Ctrl-C. Worker processes inherit a blocked SIGINT from the threads that
    # start them. The resource tracker would unblock SIGINT in the thread that starts it, so it starts here.
    resource_tracker.ensure_running()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="worker", initializer=_block_interrupts)

    def run(function: Callable[[Any], Any], batches: Sequence[Any]) -> Iterator[Any]:
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
