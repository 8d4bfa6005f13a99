"""Runs slow functions in other processes, so that pages stay quick, and reports their progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from starlette.responses import JSONResponse

from manifests.errors import LikenessError
from manifests.runtime.text import take_first_line

State = Literal["idle", "running", "done", "failed"]
Report = Callable[
    [str, int, int], None
]  # called with the name of the present step, the number of its finished units of work, and the number of all units


@dataclass(frozen=True)
class Status:
    """The state of a job."""

    state: State = "idle"
    step: str = ""  # The name of the present step, as a text for the user.
    share: float = 0.0  # The finished share of this step, from 0 to 1.
    problem: str = ""  # A sentence that says why the function failed, or "".


class Job:
    """A function that runs in another process, one call at a time. The result of the last call is kept.

    The function is called with the arguments of `start`, followed by a function of type Report. The function and its
    arguments must be picklable. With `in_thread`, the function runs in a thread of this process. Only tests use
    `in_thread`.
    """

    def __init__(self, function: Callable[..., Any], in_thread: bool = False) -> None:
        self._function, self._in_thread = function, in_thread
        self._lock = threading.Lock()
        self._status, self._result, self._key = Status(), None, ""
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self, key: str, *arguments: Any) -> None:
        """Starts the function.

        Does nothing if the function is running, or if the last call had this key and succeeded.
        """
        with self._lock:
            if self._status.state == "running" or (self._key == key and self._status.state == "done"):
                return
            self._status, self._result, self._key = Status("running"), None, key
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def read(self, key: str) -> tuple[Status, Any]:
        """Returns the status and the result of the last call, if this call had `key`.

        The result is None until the call is done.
        """
        with self._lock:
            return (self._status, self._result) if self._key == key else (Status(), None)

    def stop(self) -> None:
        """Ends the process, if the function is running."""
        with self._lock:
            if self._process is not None and self._process.is_alive():
                self._process.terminate()

    def _run(self, *arguments: Any) -> None:
        try:
            result = self._function(*arguments, self._report) if self._in_thread else self._run_process(arguments)
            status = Status("done")
        except LikenessError as error:
            status, result = Status("failed", problem=str(error)), None
        except Exception as error:  # without a status, the page would wait for ever
            status, result = Status("failed", problem=f"The work failed: {take_first_line(error)}."), None
        with self._lock:
            self._status, self._result, self._process = status, result, None

    def _run_process(self, arguments: tuple[Any, ...]) -> Any:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, self._function, arguments), daemon=True)
        with self._lock:
            self._process = process
        process.start()
        theirs.close()
        while True:
            try:
                kind, content = ours.recv()
            except EOFError:
                raise LikenessError("The process ended before its work was done: try again.") from None
            if kind == "done":
                return content
            if kind == "failed":
                raise LikenessError(content)
            self._report(*content)

    def _report(self, step: str, done: int, total: int) -> None:
        with self._lock:
            self._status = Status("running", step, done / max(total, 1))


class Jobs:
    """The jobs of a server: one job for each function."""

    def __init__(self, in_thread: bool = False) -> None:
        self._in_thread, self._jobs = in_thread, dict[Callable[..., Any], Job]()

    def find(self, function: Callable[..., Any]) -> Job:
        """Returns the job that runs a function."""
        return self._jobs.setdefault(function, Job(function, self._in_thread))

    def stop(self) -> None:
        """Ends all processes."""
        for job in list(self._jobs.values()):
            job.stop()


def answer_status(status: Status, **result: Any) -> JSONResponse:
    """Sends the status of a job, together with `result`."""
    state = {"work": status.state, "step": status.step, "share": status.share, "problem": status.problem}
    return JSONResponse({**state, **result})


def _work(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Calls the function in the other process, and sends its reports and its result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, and the server ends this process
    with suppress(OSError, AttributeError):
        os.nice(10)  # the pages come first
    try:
        result = function(*arguments, lambda *report: pipe.send(("report", report)))
    except LikenessError as error:
        pipe.send(("failed", str(error)))
    else:
        pipe.send(("done", result))
