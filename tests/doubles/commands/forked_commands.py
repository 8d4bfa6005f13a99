"""Starts the commands of tests quickly: one process imports the slow libraries, and is forked for each command.

The imports of `likeness train` take four seconds, and the imports of a worker process take one second. A forked process
has its own memory, its own process group and its own worker processes. A test can therefore kill, stop and limit a
forked process like any other process. If this file is started as a script, it becomes the process that is forked.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from functools import cache
from multiprocessing import connection, forkserver
from pathlib import Path

from tests.doubles.commands.forked_workers import fork_workers
from tests.doubles.ledger_threads import use_one_thread
from tests.places import REPOSITORY

LIBRARIES = ("torch._dynamo", "torch.utils.tensorboard", "likeness", "pytest")
# The process that is forked imports all modules in these folders, except the modules LEFT_OUT, which few tests need.
FOLDERS = ("manifests", "curate", "degrade", "train")
LEFT_OUT = (
    "degrade.engines",
    "train.export",
    "train.models.bases.base_folder",
    "train.models.bases.diffusion",
    "train.models.bases.fast_inference",
    "train.models.released",
)
CAN_FORK = sys.platform == "linux"  # macOS would end a process that is forked after the import of these libraries


class ForkedCommand:
    """Holds a command that runs in a forked process, with the methods of subprocess.Popen that the tests use."""

    def __init__(self, reports: socket.socket, *outputs: int) -> None:
        self._reports, self._outputs = reports, outputs
        self.returncode: int | None = None
        self.pid = int(self._read())

    def __del__(self) -> None:
        self._reports.close()
        for file in self._outputs:
            os.close(file)

    def wait_until_stopped(self) -> bool:
        """Waits until the command is stopped by SIGSTOP (returns True) or ends (returns False)."""
        return self._read() == "stopped"

    def _read(self) -> str:
        word, _, code = self._reports.recv(64).decode().partition(" ")
        if word == "ended":
            self.returncode = int(code)
        assert word, "the process that waits for the command is gone"
        return word

    def poll(self) -> int | None:
        while self.returncode is None and connection.wait([self._reports], 0):
            self._read()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if until is None else max(until - time.monotonic(), 0)
            if not connection.wait([self._reports], left):
                raise subprocess.TimeoutExpired("a forked command", timeout or 0)
            self._read()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in self._outputs)
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Forker:
    """Starts the process that is forked for each command. This process looks for modules in `paths` first."""

    def __init__(self, paths: str) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "FAULTS_LOG": os.devnull}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def start(self, words: list[str], environment: dict[str, str], largest_file: int = -1) -> ForkedCommand:
        """Starts `python WORDS` in a process group of its own.

        The words begin with `-m MODULE`, with `-c CODE` or with the path of a script.

        No file of the command may become larger than `largest_file` bytes. -1 means that there is no limit.
        """
        outputs = [os.memfd_create(name) for name in ("out", "err")]
        # A socket of this type keeps two reports apart.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told = json.dumps([words, str(Path.cwd()), environment, largest_file]).encode()
        socket.send_fds(self._socket, [len(told).to_bytes(4, "big")], [theirs.fileno(), *outputs])
        self._socket.sendall(told)
        theirs.close()
        return ForkedCommand(ours, *outputs)


Process = ForkedCommand | subprocess.Popen[str]


def start_python(words: list[str], environment: dict[str, str]) -> Process:
    """Starts `python WORDS` in a process group of its own. On Linux, the process is forked."""
    if CAN_FORK:
        return find_forker().start(words, environment)
    pipe = subprocess.PIPE
    command = [sys.executable, *words]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@cache
def find_forker(paths: str = str(REPOSITORY)) -> Forker:
    return Forker(paths)


# --- the following functions run in the process that is forked, and in its children ---


def import_everything() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            if not name.startswith(LEFT_OUT):
                importlib.import_module(name)


def serve(requests: socket.socket) -> list[str]:
    """Forks two processes for each request: one runs the command, and one reports how the command ends.

    Returns only in the process that runs the command, with the words of the command.
    """
    while True:
        size, files, _, _ = socket.recv_fds(requests, 4, 3)
        if not size:
            os._exit(0)  # no data means that the tests have ended, because the end of the tests closes the socket
        told = json.loads(requests.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        if os.fork():
            for file in files:
                os.close(file)
            continue
        # This process waits for the command, because only the parent of a process learns how the process ended.
        requests.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        reports, *outputs = files
        if child := os.fork():
            report(child, reports)
        os.close(reports)
        os.setsid()
        for number, file in enumerate(outputs, 1):
            os.dup2(file, number)
            os.close(file)
        words, folder, environment, largest_file = told
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        if largest_file >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        return words


def report(child: int, descriptor: int) -> None:
    """Reports each time that the process `child` stops, and its end. Then ends this process."""
    os.write(descriptor, str(child).encode())
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        os.write(descriptor, b"stopped" if stopped else f"ended {os.waitstatus_to_exitcode(status)}".encode())
        if not stopped:
            os._exit(0)


def fork_workers_from_here() -> None:
    """Makes multiprocessing fork new processes from a copy of this process, instead of spawning them."""
    server = forkserver._forkserver
    listener = socket.socket(socket.AF_UNIX)
    address = connection.arbitrary_address("AF_UNIX")
    listener.bind(address)
    listener.listen()
    alive, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        try:
            forkserver.main(listener.fileno(), alive, [], None, None)
        finally:
            os._exit(0)
    os.close(alive)
    listener.close()
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, ours, pid
    fork_workers()


def run_command(words: list[str]) -> int:
    """Runs `python WORDS` in this process. Returns the exit code."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):
            return ending.code or 0
        print(ending.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    del sys.path[0]  # removes the folder of this file, so that no module is imported from it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    import_everything()
    use_one_thread()
    gc.collect()
    gc.freeze()  # without this call, the garbage collector of a forked process would copy the memory of all modules
    words = serve(requests)
    fork_workers_from_here()
    code = run_command(words)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # ends at once, because it would take time to free every object of every library


if __name__ == "__main__":
    main()
