"""The one process pool: a stage's function over its batches, in order, whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from manifests.errors import BadInput, LikenessError

Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]

MAX_WORKERS = 1024  # ours: more processes than any machine of today has cores for


def check_workers(workers: int) -> None:
    """Raise BadInput for a number of processes that makes no sense."""
    if not 1 <= workers <= MAX_WORKERS:
        raise BadInput(f"--workers must be at least 1 and at most {MAX_WORKERS}, not {workers}.")


def default_workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def mapper(workers: int, start: Callable[[], None] | None = None) -> Iterator[Map]:
    """A `map` that keeps order, over `workers` spawned processes that each call `start` first; here where one will do.

    Only a few batches wait at a time, so a long list costs no memory. Raises BadInput for a senseless number of
    workers, and LikenessError where a worker process dies.
    """
    check_workers(workers)
    if workers == 1:
        if start is not None:
            start()
        yield lambda function, batches: map(function, batches)
        return
    # a forked child would inherit the open ledger and other libraries' threads
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start)

    def run(function: Callable[[Any], Any], batches: Sequence[Any]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        for batch in batches:
            with _deaf_children():
                waiting.append(pool.submit(function, batch))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield run
    except KeyboardInterrupt:
        for process in list((pool._processes or {}).values()):  # half-written files are swept by the next run
            process.terminate()
        raise
    except BrokenProcessPool:
        raise LikenessError(
            "A worker process ended before its work: for want of memory (repeat the command with fewer --workers; "
            "finished work is kept), or because the script that called it lacks an "
            '`if __name__ == "__main__":`.'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that begin inside inherit a blocked SIGINT: Ctrl-C is for the parent, and a child that is still
    importing would print a traceback. One that arrives meanwhile is delivered at the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
