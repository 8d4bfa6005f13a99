"""Connects this process to a Ray cluster, or starts Ray on this machine.

For the address `local`, this process starts Ray on this machine, and ends Ray with the command. The process that
connects is called the driver. Only the driver writes the ledger.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from manifests.errors import BadInput, LikenessError
from manifests.runtime.cluster.head_node import check_head_node, describe_token

THIS_MACHINE = "local"  # The address with which Ray is started on this machine.
# Size of the memory in which Ray on this machine holds rows and images until they are recorded (ours).
OBJECT_STORE_BYTES = 2**28

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
def connect_to_cluster(address: str, workers: int | None = None) -> Iterator[None]:
    """Connects this process to the cluster at `address` until the end of the block.

    With the address `local`, Ray is started before the block, and ended after the block. Ray then uses `workers` cores,
    or all cores if `workers` is None. The ports of Ray listen only on the loopback interface. Raises BadInput if no
    cluster answers or if the cluster has another version of Ray or Python.
    """
    if address not in (THIS_MACHINE, "auto"):
        check_head_node(address)
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update(SETTINGS | (_LOOPBACK if address == THIS_MACHINE else {}))
    import ray

    try:
        if address == THIS_MACHINE:
            with _start_ray(workers):
                yield
            return
        _connect(address)
        yield
    finally:
        ray.shutdown()
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _start_ray(workers: int | None) -> Iterator[None]:
    # The path of a socket has at most 107 bytes, so the path of the folder for temporary files must be short.
    parent = Path(tempfile.gettempdir())
    parent = parent if len(os.fsencode(parent)) < 30 else Path("/tmp")
    _remove_dead_folders(parent)
    folder = parent / _FOLDER.format(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    # Without this token, Ray would write a token into the home folder of the user.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    try:
        try:
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                _node_ip_address="127.0.0.1",
            )
        except Exception as error:  # Ray raises errors of many kinds
            raise LikenessError(
                f"Ray did not start on this machine: {_read_first_line(str(error))}. If the machine is busy, wait, and "
                "run the same command again. Without --engine ray, the command needs no Ray."
            ) from None
        if not ray.get_runtime_context().gcs_address.startswith("127.0.0.1:"):
            raise LikenessError(
                "Ray would listen to other machines, because this process imported Ray before Likeness started it. "
                "Call Likeness in a new process."
            )
        yield
    finally:
        ray.shutdown()  # this ends the processes that use the folder
        shutil.rmtree(folder, ignore_errors=True)


def _remove_dead_folders(parent: Path) -> None:
    """Removes the folders of Ray that killed commands have left."""
    for folder in parent.glob(_FOLDER.format("*")):
        number = folder.name.rpartition("-")[2]
        if number.isdigit() and not Path("/proc", number).exists() and Path("/proc").is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises errors of many kinds
        texts = [str(error)]
        while (error := error.__cause__ or error.__context__) is not None:  # type: ignore[assignment]
            texts.append(str(error))
        raise BadInput(_describe_failure(address, "\n".join(texts))) from None


def _describe_failure(address: str, text: str) -> str:
    """Returns a sentence for the user. `text` has the texts of the errors that Ray raised."""
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)
    if len(versions) == 2:
        (ray_there, python_there), (ray_here, python_here) = versions
        return (
            f"The cluster at {address} runs Ray {ray_there} on Python {python_there}, and this command runs Ray "
            f"{ray_here} on Python {python_here}. Install the same versions on both."
        )
    if "authentication" in text.lower():
        return describe_token(address)
    if address == "auto" and "ray start" in text.lower():
        return "No Ray cluster runs on this machine. Give --address HOST:PORT, or leave --address out."
    return (
        f"Ray cannot connect to the cluster at {address}: {_read_first_line(text)}. The command must run on a node of "
        f"the cluster: `ray start --address={address}` makes this machine a node."
    )


def _read_first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given").rstrip(".")
