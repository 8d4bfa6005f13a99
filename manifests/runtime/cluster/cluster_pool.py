"""Runs a stage's function on batches in the processes of a Ray cluster, and returns the results in order.

Each batch is a task of Ray. Ray chooses the node of a task, and runs the task again on another node if the node dies. A
process of Ray runs many tasks, but loads the face models only once (`node_work.py`). docs/scale.md says why Likeness
does not use Ray Data.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from manifests.errors import BadInput, LikenessError, ModelUnavailable
from manifests.runtime.cluster.node_versions import describe_difference, find_versions
from manifests.runtime.workers import BatchMap

AHEAD = 4  # The largest number of batches that wait or run for each core. The local engine has the same number.
RETRIES = 10  # The work fails if more nodes or processes than this number die while they work on one batch (ours).
SECONDS_WITHOUT_RESULT = 60.0  # After this time without a result, the driver checks whether any nodes are left (ours).


@contextmanager
def open_cluster_pool(
    start: Callable[[], None] | None = None, check: Callable[[None], None] | None = None, on_gpu: bool = False
) -> Iterator[BatchMap]:
    """Yields a function like `map` that runs batches on the connected cluster, and yields the results in order.

    Each worker process first calls `start`, and then `check` with None. If `on_gpu` is true, one process for each core
    of the cluster shares the GPUs of the cluster. Before the first batch, one process of each node is tested. Raises
    BadInput if a node has another version of Likeness, Python or a library. Raises BadInput if `on_gpu` is true and no
    node has a GPU. Raises ModelUnavailable if `check` raises an error on a node. Raises LikenessError if no node is
    left.
    """
    import ray

    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if on_gpu and not gpus:
        raise BadInput("No node of the cluster offers a GPU to Ray. Start the nodes with GPUs, or give --device cpu.")
    share = min(1.0, gpus / max(1, cores)) if on_gpu else 0.0
    # By default, Ray would end a process with a GPU after each task, and the next process would load the models again.
    task = ray.remote(num_cpus=1, num_gpus=share, max_retries=RETRIES, max_calls=0)(_make_task())
    preparation, versions = pickle.dumps((start, check)), find_versions()
    _test_nodes(task, versions, preparation)

    def run(function: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
        pickled, waiting = ray.put(pickle.dumps(function)), deque[Any]()
        for batch in batches:
            waiting.append(task.remote(versions, preparation, pickled, pickle.dumps(batch)))
            if len(waiting) > AHEAD * max(1, cores):
                yield _take(waiting.popleft(), versions)
        while waiting:
            yield _take(waiting.popleft(), versions)

    yield run


def _make_task() -> Callable[..., tuple[str, str, Any]]:
    """Returns the function of a task.

    The function is an inner function, because Ray sends the code of inner functions to the nodes. The function can
    therefore compare versions even on a node that has another version of Likeness, or no Likeness.
    """
    from manifests.runtime.cluster.node_versions import make_finder

    find = make_finder()

    def run_task(
        versions: dict[str, str], preparation: bytes, function: bytes | None, batch: bytes
    ) -> tuple[str, str, Any]:
        import socket

        node, found = socket.gethostname(), find()
        if found != versions:
            return node, "versions", found
        from manifests.runtime.cluster.node_work import run_batch

        return node, *run_batch(preparation, function, batch)

    return run_task


def _test_nodes(task: Any, versions: dict[str, str], preparation: bytes) -> None:
    """Runs the preparation in one process of each node, on all nodes at the same time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    tests = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)).remote(
            versions, preparation, None, b""
        )
        for node in nodes
    ]
    for test in tests:
        _take(test, versions)


def _take(reference: Any, versions: dict[str, str]) -> Any:
    """Waits for the result of a task, and returns the result. An error of the task is raised with one sentence."""
    import ray

    while True:
        try:
            node, kind, value = ray.get(reference, timeout=SECONDS_WITHOUT_RESULT)
            break
        except ray.exceptions.GetTimeoutError:
            if not ray.cluster_resources().get("CPU"):
                raise LikenessError(
                    "No node of the cluster offers a core. Start a node with `ray start`, and run the same command "
                    "again. Finished work is kept."
                ) from None
        except ray.exceptions.RayError as error:
            raise LikenessError(
                f"The cluster lost a part of the work {RETRIES + 1} times ({type(error).__name__}). Look at the memory "
                "of the nodes, and run the same command again. Finished work is kept."
            ) from None
    if kind == "versions":
        raise BadInput(describe_difference(node, value, versions))
    if kind == "unfit":
        raise ModelUnavailable(f"On the node {node}: {value}")
    if kind == "raised":
        raise value
    return value
