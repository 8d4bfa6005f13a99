"""Does the work of a process of Ray on a node. The process of Ray has one worker process of Likeness.

A photo that hangs, crashes its process or needs too much memory can harm only the worker process. The pool of the local
engine then replaces the worker process, and the photo gets the same row as with the local engine.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from manifests.runtime.workers import BatchMap, open_pool


@dataclass
class _HeldPool:
    """The worker process of this process of Ray. The worker process has the models in its memory."""

    key: tuple[bytes, str | None] | None = None
    map_batches: BatchMap | None = None
    stack: ExitStack = field(default_factory=ExitStack)


_held = _HeldPool()


def run_batch(preparation: bytes, function: bytes | None, batch: bytes) -> tuple[str, Any]:
    """Runs a pickled function on a pickled batch in the worker process.

    `preparation` is a pickled pair (start, check). A new worker process first calls `start`, and then `check` with
    None. `check` raises an error if the node cannot do the work. If `function` is None, only the preparation is done.
    Returns ("done", result), ("raised", error of the function) or ("unfit", error of the preparation).
    """
    try:
        map_batches = _prepare_pool(preparation)
    except Exception as error:
        return "unfit", error
    if function is None:
        return "done", None
    try:
        return "done", next(map_batches(pickle.loads(function), [pickle.loads(batch)]))
    except Exception as error:
        return "raised", error


def _prepare_pool(preparation: bytes) -> BatchMap:
    # Ray may choose other GPUs for each batch, but a worker process keeps the GPUs with which it started.
    key = (preparation, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if _held.key != key or _held.map_batches is None:
        _held.stack.close()
        _held.map_batches = None
        start, check = pickle.loads(preparation)
        # A spawned process runs the main file of its parent again. Here, this file would import Ray.
        vars(sys.modules["__main__"]).pop("__file__", None)
        map_batches = _held.stack.enter_context(open_pool(1, start))
        if check is not None:
            list(map_batches(check, [None]))
        _held.key, _held.map_batches = key, map_batches
    return _held.map_batches
