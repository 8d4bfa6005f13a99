"""Reads what an import needs to know of each picture of a published set, in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from manifests.errors import BadInput
from manifests.pictures.untrusted_images import read_picture
from manifests.runtime.files import sha256_bytes
from manifests.runtime.progress import Progress
from manifests.runtime.workers import FailedUnit, guard_units, open_pool
from train.benchmark.frozen_benchmark import hash_picture

BATCH = 8  # The number (ours) of pictures that a worker process reads at a time.
MIN_SIDE = 16  # The smallest side of an aligned face in pixels (ours; frozen sets have the same limit).


@dataclass(frozen=True)
class PictureFacts:
    """Holds what is known of one picture of a set."""

    sha256: str  # The hash of the bytes of the file.
    pixels: str  # The hash of the decoded pixels (train/benchmark/frozen_benchmark.py).
    height: int
    width: int
    is_gray: bool  # R, G and B are equal in every pixel.

    @property
    def is_square(self) -> bool:
        """Returns whether the picture can be an aligned face."""
        return self.height == self.width >= MIN_SIDE


def read_facts(folder: Path, files: Sequence[str], workers: int, progress: Progress) -> dict[str, PictureFacts]:
    """Returns the facts of the files below `folder`. A file that cannot be read as a picture has no facts.

    Raises BadInput if the number of worker processes is not allowed.
    """
    batches = [list(files[start : start + BATCH]) for start in range(0, len(files), BATCH)]
    facts: dict[str, PictureFacts] = {}
    with open_pool(workers) as run:
        for done, (batch, result) in enumerate(
            zip(batches, run(partial(_read_batch, folder), batches), strict=True), 1
        ):
            facts |= {file: one for file, one in zip(batch, result, strict=True) if one is not None}
            progress("read", min(done * BATCH, len(files)), len(files))
    return facts


def _read_batch(folder: Path, files: Sequence[str | FailedUnit]) -> list[PictureFacts | None]:
    return [None if isinstance(file, FailedUnit) else _read_one(folder / file) for file in guard_units(files)]


def _read_one(path: Path) -> PictureFacts | None:
    try:
        pixels, sha256 = read_picture(path), sha256_bytes(path.read_bytes())
    except (BadInput, OSError):
        return None
    height, width = pixels.shape[:2]
    gray = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    return PictureFacts(sha256, hash_picture(pixels), height, width, gray)
