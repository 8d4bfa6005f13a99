"""Does the work of a process of Ray on a node. The process of Ray has one worker process of Likeness.

A photo that hangs, crashes its process or needs too much memory can harm only the worker process. The pool of the local
engine then replaces the worker process, and the photo gets the same row as with the local engine. The process of Ray
does not unpickle functions and results, so it does not import their libraries.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from manifests.errors import BadInput
from manifests.runtime.workers import BatchMap, open_pool
from manifests.stores.failures import StoreError
from manifests.stores.store_path import StorePath


class Preparation(NamedTuple):
    """Says how a node prepares a worker process."""

    start: bytes | None  # a pickled function that starts each worker process
    # A pickled function that a new worker process calls with None before its first batch. It raises an error if the
    # node cannot do the work.
    check: bytes | None
    # A few files of each place. The node must see one of the files of each place. A user can delete the others, so
    # it need not see all of them.
    files: Sequence[Sequence[Path]]
    nested: bool  # whether worker processes start processes themselves
    current_folder: Path  # the current folder of the driver, in which relative paths begin


class _Unseen(Exception):
    """This node does not see the files of the driver."""


@dataclass
class _HeldPool:
    """The worker process of this process of Ray. The worker process has the models in its memory."""

    key: tuple[bytes, str | None] | None = None
    map_batches: BatchMap | None = None
    stack: ExitStack = field(default_factory=ExitStack)


_held = _HeldPool()


def run_batch(preparation: bytes, function: bytes | None, batch: bytes) -> tuple[str, Any]:
    """Runs a pickled function on a pickled batch in the worker process.

    `preparation` is a pickled Preparation. If `function` is None, only the preparation is done. Returns ("done",
    pickled result), ("raised", error of the function), ("unseen", sentence about a file) or ("unfit", error of the
    preparation).
    """
    try:
        map_batches = _prepare_pool(preparation)
    except _Unseen as error:
        return "unseen", str(error)
    except Exception as error:
        return "unfit", error
    if function is None:
        return "done", pickle.dumps(None)
    try:
        return "done", next(map_batches(partial(_call_pickled, function), [pickle.loads(batch)]))
    except Exception as error:
        return "raised", error


def _prepare_pool(preparation: bytes) -> BatchMap:
    # Ray may choose other GPUs for each batch, but a worker process keeps the GPUs with which it started.
    key = (preparation, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if _held.key != key or _held.map_batches is None:
        _held.stack.close()
        _held.map_batches = None
        prepared: Preparation = pickle.loads(preparation)
        _check_files([place for place in prepared.files if not _is_in_store(place)])
        with suppress(OSError):  # if this node has no such folder, all paths of the files are absolute
            os.chdir(prepared.current_folder)
        # A spawned process runs the main file of its parent again. Here, this file would import Ray.
        vars(sys.modules["__main__"]).pop("__file__", None)
        start = None if prepared.start is None else partial(_start_pickled, prepared.start)
        map_batches = _held.stack.enter_context(open_pool(1, start, prepared.nested))
        atexit.register(_held.stack.close)  # multiprocessing would wait for the end of a nested worker process
        if in_stores := [place for place in prepared.files if _is_in_store(place)]:
            list(map_batches(_check_stores, [in_stores]))  # the libraries of stores take memory, so not in this process
        if prepared.check is not None:
            list(map_batches(partial(_call_pickled, prepared.check), [None]))
        _held.key, _held.map_batches = key, map_batches
    return _held.map_batches


def _start_pickled(start: bytes) -> None:
    pickle.loads(start)()


def _call_pickled(function: bytes, *batch: Any) -> bytes:
    """Calls a pickled function in a worker process, and returns the pickled result."""
    return pickle.dumps(pickle.loads(function)(*batch))


def _check_files(places: Sequence[Sequence[Path]]) -> None:
    """Raises _Unseen if this node sees no file of a place."""
    for files in places:
        if files and not any(map(os.path.lexists, files)):
            raise _Unseen(
                f"{files[0]} is missing. Every node must have the files of the command at the same paths. Mount the "
                "driver's file system on this node, and run the same command again."
            )


def _is_in_store(place: Sequence[Path]) -> bool:
    return bool(place) and isinstance(place[0], StorePath)


def _check_stores(places: Sequence[Sequence[StorePath]]) -> None:
    """Raises _Unseen if this node can read no file of a place in a store."""
    for files in places:
        errors = [error for file in files if (error := _find_store_error(file)) is not None]
        if len(errors) == len(files):
            raise _Unseen(
                f"{errors[0]} Give every node the credentials, the settings (such as AWS_ENDPOINT_URL) and the "
                "libraries of the store. Then start Ray on this node again, and run the same command again."
            )


def _find_store_error(path: StorePath) -> str | None:
    """Returns a sentence if this node cannot read a file, or cannot list a folder.

    One byte of a file is read, because a store can let us list a file and still refuse to send the file.
    """
    try:
        if not path.fetch_facts().is_folder:
            path.read_head(1)
    except StoreError as error:
        return f"{path} cannot be read: {error.strerror}."
    except BadInput as error:  # a library is missing
        return str(error)
    return None
