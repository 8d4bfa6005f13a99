"""Decodes pictures of unknown origin in a worker process, so that a harmful picture cannot stop the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.runtime.images import UndecodableImage, decode
from manifests.runtime.text import make_printable
from manifests.runtime.workers import FAILURE_TEXTS, FailedUnit, guard_units, open_pool

Read = Callable[[Path], np.ndarray]


def read_picture(path: Path) -> np.ndarray:
    """Decodes a file in this process to uint8 RGB (H, W, 3). Raises BadInput if the file cannot be decoded."""
    try:
        return decode(path)
    except UndecodableImage as error:
        raise BadInput(f"{make_printable(path)} cannot be read as a picture: it {error}.") from None
    except OSError as error:
        raise BadInput(f"{make_printable(path)} cannot be read: {error.strerror}.") from None


@contextmanager
def open_reader(limited: bool) -> Iterator[Read]:
    """Yields a function that reads a picture and returns the same array as `read_picture`.

    If `limited`, a worker process reads the pictures within the limits of manifests/runtime/workers.py. The worker
    process starts at the first picture. BadInput is also raised if a picture exceeds a limit or ends the worker.
    """
    if not limited:
        yield read_picture
        return
    with open_pool(1) as run:

        def read(path: Path) -> np.ndarray:
            ((result,),) = run(_read_batch, [[path]])
            if isinstance(result, str):
                raise BadInput(result)
            return np.asarray(result)

        yield read


def _read_batch(paths: Sequence[Path | FailedUnit]) -> list[np.ndarray | str]:
    """Returns a list with each picture, or with a sentence that explains why the picture cannot be read."""
    results: list[np.ndarray | str] = []
    for path in guard_units(paths):
        if isinstance(path, FailedUnit):
            results.append(f"{make_printable(path.unit)} cannot be read as a picture: it {FAILURE_TEXTS[path.reason]}.")
            continue
        try:
            results.append(read_picture(path))
        except BadInput as error:
            results.append(str(error))
    return results
