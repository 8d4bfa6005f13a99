"""Forks the worker processes of tests from a process that has imported the libraries, instead of starting Python anew.

A spawned worker process needs a second to import libraries. Tests with workers that die start many worker processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from functools import cache
from multiprocessing import context, forkserver
from typing import Any

from tests.places import REPOSITORY

LIBRARIES = ["curate.run.pipeline", "degrade.frozen.dataset_sets", "manifests.pictures.untrusted_images", "pytest"]
spawn_or_fork = multiprocessing.get_context


class _Process(context.ForkServerProcess):
    """A forked process with the environment and the blocked signals that a spawned process would have."""

    def __init__(self, *told: Any, **options: Any) -> None:
        super().__init__(*told, **options)
        self._environment = dict(os.environ)

    def start(self) -> None:
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        super().start()

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        super().run()


class _Context(context.ForkServerContext):
    Process = _Process


def get_context(method: str | None = None) -> Any:
    """Returns the context of a start method, like multiprocessing.get_context.

    For the method `spawn`, returns a context that forks processes instead.
    """
    if method != "spawn":
        return spawn_or_fork(method)
    start_server()
    return _Context()


@cache
def start_server() -> None:
    """Starts the process that is forked, if it is not running."""
    if forkserver._forkserver._forkserver_pid is None:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), before)))
        forkserver.set_forkserver_preload(LIBRARIES)
        forkserver.ensure_running()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def fork_workers() -> None:
    if sys.platform == "linux":  # macOS would end a process that is forked after the import of these libraries
        multiprocessing.get_context = get_context
