"""Starts the process that uses Ray, and calls functions in this process.

Ray ends the process that uses it if a part of Ray on this machine stops, such as the head node. Ray also prints its own
lines. Therefore the process of the command does not import Ray. If Ray ends the other process, the process of the
command still closes its ledger and prints one sentence. The output of the other process is in a file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from manifests.errors import ClusterLost, LikenessError
from manifests.runtime.cluster.head_node import is_head_node_there

MESSAGES = "messages.txt"  # the file with the output of the process that uses Ray
_END_SECONDS = 20.0  # The process that uses Ray has this number of seconds (ours) to end its connection.


class _RayFault(Exception):
    """Ray raised an error of its own. The text begins with the name of the error's class."""


class RayProcess:
    """The process that uses Ray, and the pipe to this process.

    `address` is the address of a running cluster, or None if the process starts Ray on this machine.
    `folder` is a folder for its files. The process starts there, so that no worker of Ray imports a file of the current
    folder in place of a module of Likeness. `variables` are added to the environment of the process.
    """

    def __init__(self, address: str | None, folder: Path, variables: dict[str, str]) -> None:
        self.address, self.folder = address, folder
        self.head: str | None = None  # the address of the head node, after the process was connected
        self._waiting = 0  # the number of replies that were not read, because Ctrl-C interrupted `call`
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        before = {name: os.environ.get(name) for name in variables}
        # Ctrl-C is handled by the process of the command alone. `open_pool` says why the tracker is started here.
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.environ.update(variables)
        try:
            # A daemon of multiprocessing cannot start processes.
            self._process = context.Process(target=_serve, args=(other_end, folder), daemon=False)
            self._process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        other_end.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what `function` returns in the process that uses Ray, or raises its error.

        Raises ClusterLost if the process has ended.
        """
        try:
            self._pipe.send((function, arguments))
            self._waiting += 1
            while self._waiting:
                is_done, value = self._pipe.recv()
                self._waiting -= 1
        except (EOFError, OSError):
            raise self.describe_loss() from None
        if is_done:
            return value
        if isinstance(value, _RayFault):
            self.check_head()
            raise LikenessError(f"Ray cannot do the work ({value}). Run the same command again. Finished work is kept.")
        raise value

    def check_head(self) -> None:
        """Raises ClusterLost if the head node does not answer."""
        if self.head is not None and not is_head_node_there(self.head):
            raise self.describe_loss()

    def describe_loss(self) -> LikenessError:
        """Returns the error for the user after Ray has stopped."""
        messages = f"Ray's messages are in {self.folder / MESSAGES}."
        if self.head is None:
            return LikenessError(
                f"The process that uses Ray ended before it was connected. {messages} If your own script calls "
                'Likeness, put the call into an `if __name__ == "__main__":` block.'
            )
        if self.address is None:
            text = "Ray on this machine stopped during the work. Run the same command again: it resumes the work."
        else:
            text = (
                f"The Ray cluster at {self.address} stopped during the work, or the connection to it was lost. Start "
                "the cluster, and run the same command again: it resumes the work."
            )
        return ClusterLost(f"{text} {messages}")

    def end(self, disconnect: Callable[[], None]) -> bool:
        """Calls `disconnect` in the process, and ends the process. Returns whether the process was still alive."""
        is_alive = False
        try:
            self._pipe.send((disconnect, ()))
            self._waiting += 1
            while self._waiting and self._pipe.poll(_END_SECONDS):
                is_alive = self._pipe.recv() is not None
                self._waiting -= 1
        except Exception:  # the process has ended, or Ctrl-C interrupted `call` in the middle of a reply
            is_alive = False
        self._process.kill()
        self._process.join()
        self._pipe.close()
        return is_alive


def _serve(pipe: Connection, folder: Path) -> None:
    """Runs functions in the process that uses Ray until the process of the command closes the pipe."""
    messages = os.open(folder / MESSAGES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(messages, 1)
    os.dup2(messages, 2)
    # Ray lets its workers import modules from the current folder, and from the folder of the program.
    os.chdir(folder)
    sys.argv[:] = [str(folder / "likeness")]
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # without this, Ray could wait for its cluster
        reply: tuple[bool, Any]
        try:
            reply = True, function(*arguments)
        except LikenessError as error:
            reply = False, error
        except Exception as error:
            reply = False, _RayFault(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        try:
            pipe.send(reply)
        except OSError:
            os._exit(0)
