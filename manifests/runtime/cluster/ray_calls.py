"""The functions that call Ray. These functions run in the process that uses Ray (`ray_process.py`)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.errors import BadInput, LikenessError
from manifests.runtime.cluster.head_node import describe_token

RETRIES = 10  # The work fails if more nodes or processes than this number (ours) die while they work on one batch.
# Size (ours) of the memory in which Ray on this machine holds rows and images until they are recorded.
OBJECT_STORE_BYTES = 2**28
WAIT_SECONDS = 1.0  # `take` waits at most this number of seconds (ours), so that the process notices its end soon.

Result = tuple[str, str, Any]  # the name of the node, the kind of the result, and the result


@dataclass
class _Held:
    """What this process holds for the process of the command. The index of an item is its name."""

    tasks: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)
    results: dict[int, Any] = field(default_factory=dict)
    count: int = 0  # of all results


_held = _Held()


def start_ray(folder: Path, workers: int | None) -> str:
    """Starts Ray on this machine, with its files in `folder`. Returns the address of the head node."""
    import os

    # Without this token, Ray would write a token into the home folder of the user.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

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
            f"Ray did not start on this machine: {_read_first_line(str(error))}. If the machine is busy, wait, and run "
            "the same command again. Without --engine ray, the command needs no Ray."
        ) from None
    address = str(ray.get_runtime_context().gcs_address)
    if not address.startswith("127.0.0.1:"):
        ray.shutdown()
        raise LikenessError(
            f"Ray {ray.__version__} would listen to other machines, at {address}. Install the version of Ray in "
            "constraints.txt."
        )
    return address


def connect(address: str) -> str:
    """Connects this process to the cluster at `address`. Returns the address of the head node."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises errors of many kinds
        texts = [str(error)]
        while (error := error.__cause__ or error.__context__) is not None:  # type: ignore[assignment]
            texts.append(str(error))
        raise BadInput(describe_failure(address, "\n".join(texts))) from None
    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Ends the connection. Ray on this machine, which `start_ray` started, is ended too."""
    import ray

    ray.shutdown()


def describe_failure(address: str, text: str) -> str:
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
        return (
            "No Ray cluster runs on this machine. Start one with: ray start --head. Or give --address HOST:PORT, or "
            "leave --address out."
        )
    return (
        f"Ray cannot connect to the cluster at {address}: {_read_first_line(text)}. The command must run on a node of "
        f"the cluster: `ray start --address={address}` makes this machine a node."
    )


def _read_first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given").rstrip(".")


def list_resources() -> list[dict[str, float]]:
    """Returns the resources of each node, such as {"CPU": 16.0, "GPU": 1.0}."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def hold_task(cores: int, gpus: float, *arguments: Any) -> int:
    """Returns the index of a new task, whose function gets `arguments` first."""
    import ray

    # By default, Ray would end a process with a GPU after each task, and the next process would load the models again.
    task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES, max_calls=0)(_make_task())
    _held.tasks.append((task, arguments))
    return len(_held.tasks) - 1


def hold_function(function: bytes) -> int:
    """Sends a pickled function to Ray once, and returns its index."""
    import ray

    _held.functions.append(ray.put(function))
    return len(_held.functions) - 1


def submit(task: int, function: int, batch: bytes) -> int:
    """Runs a task with a batch. Returns the number of its result."""
    remote, arguments = _held.tasks[task]
    return _hold_result(remote.remote(*arguments, _held.functions[function], batch))


def submit_tests(task: int, needed: Sequence[str]) -> list[int]:
    """Runs the task without a batch in one process of each node that offers the resources `needed`.

    Returns the numbers of the results.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote, arguments = _held.tasks[task]
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = [node["NodeID"] for node in alive if all(node["Resources"].get(name) for name in needed)]
    return [
        _hold_result(
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)).remote(
                *arguments, None, b""
            )
        )
        for node in nodes
    ]


def take(number: int) -> Result | None:
    """Returns the result with this number, or None if it is not ready within WAIT_SECONDS.

    The kind of the result is that of `run_batch` (`node_work.py`), "versions", "failed" if the task itself raised an
    error, "stopped" if Ray stopped on this machine, or "lost" if Ray gave the task up.
    """
    import ray

    try:
        result: Result = ray.get(_held.results[number], timeout=WAIT_SECONDS)
    except ray.exceptions.GetTimeoutError:
        return None
    except ray.exceptions.RayTaskError as error:
        reason = " ".join(str(error.cause).split()).rstrip(".")
        result = "", "failed", f"{type(error.cause).__name__}: {reason}"
    except ray.exceptions.LocalRayletDiedError:
        result = "", "stopped", None
    except ray.exceptions.RayError as error:
        result = "", "lost", type(error).__name__
    del _held.results[number]
    return result


def _hold_result(reference: Any) -> int:
    _held.count += 1
    _held.results[_held.count] = reference
    return _held.count


def _make_task() -> Callable[..., Result]:
    """Returns the function of a task.

    The function is an inner function, because Ray sends the code of inner functions to the nodes. The function can
    therefore compare versions even on a node that has another version of Likeness, or no Likeness.
    """
    from manifests.runtime.cluster.node_versions import make_finder

    find = make_finder()

    def run_task(versions: dict[str, str], preparation: bytes, function: bytes | None, batch: bytes) -> Result:
        import socket

        node, found = socket.gethostname(), find()
        if found != versions:
            return node, "versions", found
        from manifests.runtime.cluster.node_work import run_batch

        return node, *run_batch(preparation, function, batch)

    return run_task
