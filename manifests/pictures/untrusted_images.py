"""Decodes pictures of unknown origin in a worker process, so that a harmful picture cannot stop the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.pictures.images import Picture, UndecodableImage, decode_picture
from manifests.runtime.text import make_printable
from manifests.runtime.workers import FAILURE_TEXTS, FailedUnit, guard_units, open_pool

Read = Callable[[Path], np.ndarray]
ReadOriginal = Callable[[Path], Picture]


def read_picture(path: Path) -> np.ndarray:
    """Decodes a file in this process. Returns uint8 RGB (H, W, 3). Raises BadInput if the file cannot be decoded."""
    return _decode(path, keep_original=False).rgb


def read_original_picture(path: Path) -> Picture:
    """Decodes a file in this process. The result also has the stored samples of the file and their hash.

    Raises BadInput if the file cannot be decoded.
    """
    return _decode(path, keep_original=True)


@contextmanager
def open_reader(limited: bool) -> Iterator[Read]:
    """Yields a function that reads a picture and returns the same array as `read_picture`.

    If `limited` is true, a worker process with the limits of manifests/runtime/workers.py reads the pictures. The
    worker process starts with the first picture. The yielded function raises BadInput if a picture cannot be decoded,
    exceeds a limit, or ends the worker process.
    """
    with open_readers(limited) as (read, _):
        yield read


@contextmanager
def open_readers(limited: bool) -> Iterator[tuple[Read, ReadOriginal]]:
    """Yields two functions that return the same as `read_picture` and `read_original_picture`.

    `open_reader` explains `limited` and the errors. The two functions share one worker process.
    """
    if not limited:
        yield read_picture, read_original_picture
        return
    with open_pool(1) as run:

        def read_original(path: Path, keep_original: bool = True) -> Picture:
            ((result,),) = run(partial(_read_batch, keep_original=keep_original), [[path]])
            if isinstance(result, str):
                raise BadInput(result)
            return result

        yield lambda path: read_original(path, keep_original=False).rgb, read_original


def _decode(path: Path, keep_original: bool) -> Picture:
    try:
        return decode_picture(path, keep_original=keep_original, identify=keep_original)
    except UndecodableImage as error:
        raise BadInput(f"{make_printable(path)} cannot be read as a picture: it {error}.") from None
    except OSError as error:
        raise BadInput(f"{make_printable(path)} cannot be read: {error.strerror}.") from None


def _read_batch(paths: Sequence[Path | FailedUnit], keep_original: bool) -> list[Picture | str]:
    return [_read_unit(path, keep_original) for path in guard_units(paths)]


def _read_unit(path: Path | FailedUnit, keep_original: bool) -> Picture | str:
    """Returns a picture, or a sentence that explains why the picture cannot be read."""
    if isinstance(path, FailedUnit):
        return f"{make_printable(path.unit)} cannot be read as a picture: it {FAILURE_TEXTS[path.reason]}."
    try:
        return _decode(path, keep_original)
    except BadInput as error:
        return str(error)
