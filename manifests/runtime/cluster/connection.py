"""Connects to a Ray cluster, or starts Ray on this machine.

A process of its own connects to the cluster (`ray_process.py`). For the address `local`, this process starts Ray on
this machine, and ends Ray with the command. The process of the command is called the driver. Only the driver writes the
ledger.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from manifests.errors import BadInput
from manifests.runtime.cluster.head_node import check_head_node
from manifests.runtime.cluster.ray_calls import connect, disconnect, start_ray
from manifests.runtime.cluster.ray_process import RayProcess

THIS_MACHINE = "local"  # The address with which Ray is started on this machine.

# Ray reads these variables when it is imported.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray prints no warning about the variables of GPUs.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # Ray prints no lines of other processes, because --json must print only JSON.
    "RAY_NUM_REDIS_GET_RETRIES": "4",  # Ray asks a head node 4 times (ours), once a second, instead of 20 times.
}
# With this setting, the ports of Ray listen only on the loopback interface. Without it, Ray 2.60 replaces the address
# 127.0.0.1 by an address that other machines reach.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_FOLDER = "likeness-ray-{}"  # The name of the folder of Ray's sockets and logs. {} is the id of the driver's process.


def choose_engine(engine: str, address: str | None, workers: int | None = None) -> str | None:
    """Returns what `choose_cluster` returns. `engine` is the value of --engine: local or ray."""
    if engine not in ("local", "ray"):
        raise BadInput(f"--engine {engine} is unknown. Give local or ray.")
    return choose_cluster(engine == "ray", address, workers)


def choose_cluster(is_ray: bool, address: str | None, workers: int | None) -> str | None:
    """Returns the address of the cluster that the options name, or None for the local engine.

    `workers` is the value of --workers, or None. Raises BadInput if Ray is needed and not installed, if the options
    contradict each other, or if no head node answers at the address. This function does not import Ray, so the error
    comes soon.
    """
    if not is_ray:
        if address is not None:
            raise BadInput("--address is the address of a Ray cluster. Add --engine ray, or leave --address out.")
        return None
    if find_spec("ray") is None:
        raise BadInput("--engine ray needs Ray, which is not installed. Install it with: pip install 'likeness[ray]'.")
    if address is None:
        return THIS_MACHINE
    if not re.fullmatch(r"auto|[^\s:/]+:\d{1,5}", address):
        raise BadInput(
            f"--address {address} is not an address of a Ray cluster. Give HOST:PORT of the head node, such as "
            "10.0.0.1:6379, or auto on a node of the cluster."
        )
    if workers is not None:
        raise BadInput("A cluster uses all cores that its nodes offer. Leave --workers out, or leave --address out.")
    if address != "auto":
        check_head_node(address)
    return address


@contextmanager
def connect_to_cluster(address: str, workers: int | None = None) -> Iterator[RayProcess]:
    """Yields a process that is connected to the cluster at `address` until the end of the block.

    With the address `local`, Ray is started before the block, and ended after the block. Ray then uses `workers` cores,
    or all cores if `workers` is None. The ports of Ray listen only on the loopback interface. Raises BadInput if no
    cluster answers or if the cluster has another version of Ray or Python.
    """
    if address not in (THIS_MACHINE, "auto"):
        check_head_node(address)
    # The path of a socket has at most 107 bytes, so the path of the folder for temporary files must be short.
    parent = Path(tempfile.gettempdir())
    parent = parent if len(os.fsencode(parent)) < 30 else Path("/tmp")
    _remove_dead_folders(parent)
    folder = parent / _FOLDER.format(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    connect_process: Callable[[], str]
    if address == THIS_MACHINE:
        process = RayProcess(None, folder, SETTINGS | _LOOPBACK)
        connect_process = partial(start_ray, folder, workers)
    else:
        process = RayProcess(address, folder, SETTINGS)
        connect_process = partial(connect, address)
    try:
        process.head = process.call(connect_process)
        yield process
    finally:
        if process.end(disconnect):  # otherwise, the folder contains Ray's last messages
            shutil.rmtree(folder, ignore_errors=True)


def _remove_dead_folders(parent: Path) -> None:
    """Removes the folders of Ray that killed commands have left."""
    for folder in parent.glob(_FOLDER.format("*")):
        number = folder.name.rpartition("-")[2]
        if number.isdigit() and not Path("/proc", number).exists() and Path("/proc").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
