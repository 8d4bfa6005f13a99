"""Runs a stage's function on batches in the processes of a Ray cluster, and returns the results in order.

Each batch is a task of Ray. Ray chooses the node of a task, and runs the task again on another node if the node dies. A
process of Ray runs many tasks, but loads the face models only once (`node_work.py`). docs/scale.md says why Likeness
does not use Ray Data.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from manifests.errors import BadInput, LikenessError, ModelUnavailable
from manifests.runtime.cluster import ray_calls
from manifests.runtime.cluster.node_versions import describe_difference, find_versions
from manifests.runtime.cluster.node_work import Preparation
from manifests.runtime.cluster.ray_process import RayProcess
from manifests.runtime.workers import BatchMap
from manifests.stores.address_lists import read_address_list
from manifests.stores.failures import StoreError
from manifests.stores.store_path import StorePath

AHEAD = 4  # The largest number of batches that wait or run for each core. The local engine has the same number.
# Each node looks for at most FILES_OF_PLACE files (ours) of each of the first MOST_PLACES paths (ours) that the user
# named.
MOST_PLACES, FILES_OF_PLACE = 16, 3
SECONDS_WITHOUT_RESULT = 60.0  # After this time (ours) without a result, the driver checks whether any nodes are left.


@contextmanager
def open_cluster_pool(
    ray: RayProcess,
    start: Callable[[], None] | None = None,
    check: Callable[[None], None] | None = None,
    on_gpu: bool = False,
    files: Sequence[Sequence[Path]] = (),
    alone: bool = False,
    nested: bool = False,
) -> Iterator[BatchMap]:
    """Yields a function like `map` that runs batches on the cluster of `ray`, and yields the results in order.

    Each worker process first calls `start`, and then `check` with None. Relative paths begin in the current folder of
    the driver, also on the nodes. Each node must see at least one file of each item of `files`. If `nested` is true,
    worker processes can start processes themselves. A batch gets one core. If `on_gpu` is true, the cluster has one
    process for each core, and these processes share the GPUs. If `alone` is true, a batch gets a whole GPU with
    `on_gpu`, and a whole node without `on_gpu`. `count_cores_of_batch` returns its number of cores.

    Before the first batch, one process of each node is tested. Raises BadInput if a node has another version of
    Likeness, Python or a library. Raises BadInput if a node cannot read `files`, or if `on_gpu` is true and no node
    has a GPU. Raises ModelUnavailable if `check` raises an error on a node. Raises LikenessError if no node is left.
    Raises ClusterLost if the head node stops.
    """
    nodes = ray.call(ray_calls.list_resources)
    cores, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    if on_gpu and not gpus:
        raise BadInput("No node of the cluster offers a GPU to Ray. Start the nodes with GPUs, or give --device cpu.")
    share = 0.0 if not on_gpu else 1.0 if alone else min(1.0, gpus / max(1, cores))
    cores_of_batch = count_cores_of_batch(ray, on_gpu) if alone else 1
    places = [[path.absolute() for path in place] for place in files]
    prepared = Preparation(start and pickle.dumps(start), check and pickle.dumps(check), places, nested, Path.cwd())
    versions = find_versions()
    needed = ("CPU", "GPU") if on_gpu else ("CPU",)
    task = ray.call(ray_calls.hold_task, cores_of_batch, share, versions, pickle.dumps(prepared))
    for test in ray.call(ray_calls.submit_tests, task, needed):
        _take(ray, test, versions, needed)

    def run(function: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
        held, waiting = ray.call(ray_calls.hold_function, pickle.dumps(function)), deque[int]()
        for batch in batches:
            waiting.append(ray.call(ray_calls.submit, task, held, pickle.dumps(batch)))
            if len(waiting) > AHEAD * max(1, cores):
                yield _take(ray, waiting.popleft(), versions, needed)
        while waiting:
            yield _take(ray, waiting.popleft(), versions, needed)

    yield run


def count_cores_of_batch(ray: RayProcess, on_gpu: bool) -> int:
    """Returns the number of cores for a batch that gets a whole GPU (`on_gpu`) or a whole node. The result is the
    smallest number of cores per GPU, or per node, so every node has enough cores."""
    nodes = [node for node in ray.call(ray_calls.list_resources) if node.get("CPU")]
    counts = [node["CPU"] // node["GPU"] if on_gpu else node["CPU"] for node in nodes if not on_gpu or node.get("GPU")]
    return max(1, int(min(counts, default=1)))


def list_first_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Returns a few files of each path that the user named. With these files, Likeness tests whether the nodes see the
    paths.

    A folder in a store is returned itself, because a store can need a minute to list a large folder. In place of a list
    of addresses, its first address is returned, if the driver can read it. At most MOST_PLACES paths are looked at.
    """
    places: list[list[Path]] = []
    for path in islice(paths, MOST_PLACES):
        if addresses := read_address_list(path):
            with suppress(StoreError):
                addresses[0].fetch_facts()
                places.append([addresses[0]])
        elif isinstance(path, StorePath):
            places.append([path])
        else:
            walked = ((folder, names) for folder, _, names in os.walk(path) if names)
            folder, names = next(walked, (str(path.parent), [path.name]))
            places.append([Path(folder, name) for name in sorted(names)[:FILES_OF_PLACE]])
    return places


def _take(ray: RayProcess, number: int, versions: dict[str, str], needed: Sequence[str] = ("CPU",)) -> Any:
    """Waits for the result of a task, and returns the result. An error of the task is raised with one sentence.

    `needed` are the resources of Ray without which the task cannot run.
    """
    began = time.monotonic()
    while (result := ray.call(ray_calls.take, number)) is None:
        if time.monotonic() - began < SECONDS_WITHOUT_RESULT:
            continue
        nodes, began = ray.call(ray_calls.list_resources), time.monotonic()
        if missing := [name for name in needed if not any(node.get(name) for node in nodes)]:
            raise LikenessError(
                f"No node of the cluster offers a {missing[0]} to Ray. Start a node with `ray start`, and run the same "
                "command again. Finished work is kept."
            )
    node, kind, value = result
    if kind == "done":
        return pickle.loads(value)
    if kind == "versions":
        raise BadInput(describe_difference(node, value, versions))
    if kind == "unseen":
        raise BadInput(f"On the node {node}: {value}")
    if kind == "unfit":
        raise ModelUnavailable(f"On the node {node}: {value}")
    if kind == "raised":
        raise value
    if kind == "failed":
        raise LikenessError(
            f"A node of the cluster cannot run Likeness ({value}). Install the same packages on all nodes, and run the "
            "same command again. Finished work is kept."
        )
    if kind == "stopped":
        raise ray.describe_loss()
    ray.check_head()
    raise LikenessError(
        f"The cluster lost a part of the work {ray_calls.RETRIES + 1} times ({value}). Look at the memory of the "
        "nodes, and run the same command again. Finished work is kept."
    )
