"""The one process pool: a stage's function over its batches, in order, whatever the number of workers.

A stage's function goes through its batch with `guard_units`, so that the pool knows which unit is worked on. One that
hangs,
ends its process or wants too much memory costs itself alone: the process is ended and replaced, the batch is given
once more, and where the unit does it again it is a `FailedUnit` in the batch, whose reason becomes its row.
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
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from manifests.errors import BadInput, LikenessError

if sys.platform != "win32":
    import resource

BatchMap = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
Unit = TypeVar("Unit")

MAX_WORKERS = 1024  # ours: more processes than any machine of today has cores for
# Of one unit, both ours. The largest picture that is decoded needs 1.2 GiB, and 19 s of a core that ten others wanted;
# some 300 MiB of libraries and models do not count.
UNIT_SECONDS = 120.0
UNIT_MEMORY = 3 * 2**29

TIMED_OUT, CRASHED, OUT_OF_MEMORY = "timed_out", "crashed", "out_of_memory"
FAILURES = (TIMED_OUT, CRASHED, OUT_OF_MEMORY)
FAILURE_TEXTS = {  # of a photo, for people
    TIMED_OUT: f"takes more than {UNIT_SECONDS:.0f} s",
    CRASHED: "ends the process that decodes it",
    OUT_OF_MEMORY: "needs too much memory",
}


@dataclass(frozen=True)
class FailedUnit:
    """A unit that no process came through, in its place in the batch. The reason is one of LOST."""

    unit: Any
    reason: str


def check_workers(workers: int) -> None:
    """Raise BadInput for a number of processes that makes no sense."""
    if not 1 <= workers <= MAX_WORKERS:
        raise BadInput(f"--workers must be at least 1 and at most {MAX_WORKERS}, not {workers}.")


def count_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- in a worker process ---


@dataclass
class _Here:
    """What this process knows of its pool; nothing where it is no worker."""

    parent: Connection | None = None
    once_more: bool = False
    memory: tuple[int, int] = (-1, -1)  # the limits that this process was born with


_here = _Here()


def guard_units(units: Sequence[Unit], limited: bool = True) -> Iterator[Unit]:
    """The units of a batch in turn; in a worker process each within SECONDS and MEMORY, unless they are not `limited`.

    A Lost is handed on as it is. What is done after the last one is on no unit's account.
    """
    for index, unit in enumerate(units):
        if _here.parent is None or isinstance(unit, FailedUnit):
            yield unit
            continue
        _tell(index)
        if not limited:
            yield unit
            continue
        with enforce_limits():
            yield unit
    if _here.parent is not None:
        _tell(None)


@contextmanager
def enforce_limits() -> Iterator[None]:
    """SECONDS and MEMORY for what is done inside, in a worker process; anywhere else nothing.

    After SECONDS the process ends, also amid a library's own code; beyond MEMORY, Linux refuses more (MemoryError).
    """
    if _here.parent is None:
        yield
        return
    try:
        restart_timer()
        _refuse_memory(UNIT_MEMORY)
        yield
    finally:
        _lift()


def restart_timer() -> None:
    """SECONDS anew, for work that goes on: a long archive is read up to the member that is wanted."""
    if _here.parent is not None and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, UNIT_SECONDS)


def is_retry() -> bool:
    """Whether this batch has ended a process already: what is begun ahead of its turn would blur which unit it was."""
    return _here.once_more


def _tell(index: int | None) -> None:
    assert _here.parent is not None
    try:
        _here.parent.send(("at", index))
    except OSError:
        os._exit(1)  # nobody waits for the answer any more


def _refuse_memory(more: int | None) -> None:
    """No more than so many bytes beside what is held now; None lifts it."""
    if sys.platform != "linux":
        return
    soft, hard = _here.memory
    if more is not None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        wanted = pages * resource.getpagesize() + more
        soft = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _lift() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    _refuse_memory(None)


def _serve(parent: Connection, start: Callable[[], None] | None) -> None:
    """A worker process from its beginning to its end."""
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _here.memory = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # no core files
    if start is not None:
        start()
    _here.parent = parent
    while True:
        try:
            function, batch, _here.once_more = parent.recv()
        except (EOFError, OSError):
            return
        answer: tuple[str, Any] | None
        try:
            answer = "done", function(batch)
        except MemoryError:
            answer = "lost", OUT_OF_MEMORY
        except Exception as error:
            error.add_note("In a worker process:\n" + traceback.format_exc())
            answer = "raised", error
        _lift()
        try:
            parent.send(answer)
        except OSError:
            return
        except Exception as error:  # what cannot be pickled
            parent.send(("raised", RuntimeError(f"{type(error).__name__}: {error}")))
        answer = None  # an error holds on to all that its batch held


# --- in the parent ---


class _Worker:
    """One spawned process and the parent's end of its pipe."""

    def __init__(self, start: Callable[[], None] | None) -> None:
        # a forked child would inherit the open ledger and other libraries' threads
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, start), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, function: Callable[[Any], Any], batch: Any, once_more: bool) -> tuple[str, Any, int | None]:
        """(done, result), (raised, error) or (lost, reason), and the index of the unit that was worked on."""
        at = None
        try:
            self.pipe.send((function, batch, once_more))
            while True:
                kind, value = self.pipe.recv()
                if kind != "at":
                    return kind, value, at
                at = value
        except (EOFError, OSError):
            self.process.join()
            timed_out = sys.platform != "win32" and self.process.exitcode == -signal.SIGALRM
            return "lost", TIMED_OUT if timed_out else CRASHED, at
        except Exception as error:  # what cannot be pickled, either way
            return "raised", error, at

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class _Pool:
    """The processes, each minded by a thread of this one while it works."""

    start: Callable[[], None] | None
    idle: list[_Worker] = field(default_factory=list)
    busy: list[_Worker] = field(default_factory=list)
    closed: bool = False

    def mind(self, function: Callable[[Any], Any], batch: Any) -> Any:
        """The function's result for the batch. Raises what it raised; LikenessError for a death at no unit."""
        once_more = False
        while True:
            worker = self.idle.pop() if self.idle else _Worker(self.start)
            self.busy.append(worker)
            if self.closed:
                worker.end()
                raise LikenessError("The work was broken off.")
            kind, value, at = worker.ask(function, batch, once_more)
            self.busy.remove(worker)
            if kind != "lost":
                self.idle.append(worker)
                if kind == "raised":
                    raise value
                return value
            worker.end()  # also after a mere MemoryError: what is left of that process's memory is in pieces
            if at is None or self.closed:
                raise LikenessError(
                    "A worker process ended before its work: for want of memory (repeat the command with fewer "
                    "--workers; finished work is kept), or because the script that called it lacks an "
                    '`if __name__ == "__main__":`.'
                )
            if once_more:
                batch = [*batch[:at], FailedUnit(batch[at], value), *batch[at + 1 :]]
            once_more = True  # a stopped or starved machine is no fault of the photo; and now none is begun ahead

    def close(self) -> None:
        self.closed = True
        for worker in [*self.idle, *self.busy]:  # half-written files are swept by the next run
            worker.process.kill()


@contextmanager
def open_pool(workers: int | None, start: Callable[[], None] | None = None) -> Iterator[BatchMap]:
    """A `map` that keeps order, over `workers` spawned processes that each call `start` first.

    None works in this very process, where nothing is limited and a crash is a crash: for photos one trusts, and for
    tests. Only a few batches wait at a time, so a long list costs no memory. Raises BadInput for a senseless number of
    workers, and LikenessError where a worker process dies on no unit's account.
    """
    if workers is None:
        if start is not None:
            start()
        yield lambda function, batches: map(function, batches)
        return
    check_workers(workers)
    pool = _Pool(start)
    # Ctrl-C is for the parent's main thread: the processes inherit a blocked SIGINT from the thread that starts them.
    # The tracker that the first one would start leaves its thread's SIGINT unblocked, so it is started here.
    resource_tracker.ensure_running()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="worker", initializer=_deaf)

    def run(function: Callable[[Any], Any], batches: Sequence[Any]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        for batch in batches:
            waiting.append(threads.submit(pool.mind, function, batch))
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


def run_in_process(function: Callable[[Unit], Any], unit: Unit) -> Any:
    """`function(unit)` in a process of its own, within SECONDS and MEMORY; a Lost where it does not come through."""
    with open_pool(1) as run:
        ((found,),) = run(partial(_of_each, function), [[unit]])
    return found


def _of_each(function: Callable[[Unit], Any], batch: Sequence[Unit | FailedUnit]) -> list[Any]:
    return [unit if isinstance(unit, FailedUnit) else function(unit) for unit in guard_units(batch)]


def _deaf() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
