"""Photos that others made, decoded: in a process of their own, one that hangs or ends it costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from curate.faces.decode import FORMATS, UndecodableImage, decode
from manifests.errors import BadInput
from manifests.runtime.text import make_printable
from manifests.runtime.workers import FAILURE_TEXTS, OUT_OF_MEMORY, FailedUnit, guard_units, open_pool

Read = Callable[[Path], np.ndarray]


def read_photo(path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3). Raises BadInput for a file that is no photo."""
    try:
        return decode(path)
    except UndecodableImage as error:
        if error.reason == OUT_OF_MEMORY:
            raise BadInput(_lost(path, OUT_OF_MEMORY)) from None
        known = ", ".join(FORMATS)
        raise BadInput(f"{make_printable(path)} cannot be read as a photo ({error}): {known} are known.") from None
    except OSError as error:
        raise BadInput(f"{make_printable(path)} cannot be read: {error.strerror}.") from None


def read_numbers(path: Path) -> np.ndarray:
    """A picture that is to be measured, as `read_photo`. A TIFF can hold NaN and infinity, which that takes for black;
    raises BadInput for it, too."""
    found = read_photo(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            numbers = image.mode != "F" or bool(np.isfinite(np.asarray(image)).all())
    except Exception:  # it was a photo a moment ago
        raise BadInput(f"{make_printable(path)} changed while it was read: run the same command again.") from None
    if not numbers:
        raise BadInput(f"{make_printable(path.name)} holds pixels that are no numbers")
    return found


@contextmanager
def reader(limited: bool, of: Read = read_photo) -> Iterator[Read]:
    """`of`, one of the two above; where `limited`, in a process of its own, within the limits of
    manifests/runtime/workers.py.

    The process starts with the first photo. What a photo does to it becomes BadInput as well.
    """
    if not limited:
        yield of
        return
    with open_pool(1) as run:

        def read(path: Path) -> np.ndarray:
            ((found,),) = run(partial(_read_batch, of), [[path]])
            if isinstance(found, str):
                raise BadInput(found)
            return np.asarray(found)

        yield read


def _read_batch(read: Read, paths: Sequence[Path | FailedUnit]) -> list[np.ndarray | str]:
    """Each photo, or the sentence that says why there is none."""
    found: list[np.ndarray | str] = []
    for path in guard_units(paths):
        if isinstance(path, FailedUnit):
            found.append(_lost(path.unit, path.reason))
            continue
        try:
            found.append(read(path))
        except BadInput as error:
            found.append(str(error))
    return found


def _lost(path: Path, reason: str) -> str:
    return f"{make_printable(path)} cannot be read as a photo: it {FAILURE_TEXTS[reason]}."
