"""One unit of work: a picture on disk and a θ in, PNG bytes out; and the process pool that maps it.

Workers return bytes and never write: the parent does, so a killed run leaves whole files and whole rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from degrade.operations.apply import MAX_PIXELS, apply_to_pixels
from degrade.operations.pixels import Pixels, shrink, to_float, to_uint8
from degrade.theta import Theta
from manifests.errors import BadInput
from manifests.runtime.images import UndecodableImage, decode
from manifests.runtime.png_files import LQ_PNG, encode_png
from manifests.runtime.workers import (
    FAILURE_TEXTS,
    BatchMap,
    FailedUnit,
    enforce_limits,
    guard_units,
    open_pool,
)

ENGINES = ("exact", "basicsr")


JobsFunction = Callable[[Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class Job:
    """Degrade `source`, area-resized to `size` first, by `theta`; `target` is the frozen file to compare with."""

    source: Path
    size: int | None
    theta: Theta
    target: Path | None = None
    engine: str = "exact"


@dataclass(frozen=True)
class Result:
    """What came of a job: `problem` is a sentence where nothing did, otherwise the file's bytes and sha256."""

    png: bytes = b""
    sha256: str = ""
    source_sha256: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The file on disk beside the one regenerated now. None: it could not be had."""

    disk_sha256: str | None  # sha256
    regenerated_sha256: str | None  # sha256
    source_sha256: str | None
    difference: int | None  # largest over all pixels, in 1/255; 255 where the sizes differ


def check_engine(engine: str) -> None:
    """Raise BadInput, before anything is written, for an engine that is unknown or not installed."""
    if engine not in ENGINES:
        raise BadInput(f"There is no engine {engine}; the engines are {', '.join(ENGINES)}.")
    if engine == "basicsr":
        from degrade.engines import basicsr_reference

        basicsr_reference.load_basicsr()


def run_job(job: Job) -> Result:
    """Degrade one picture. A source that cannot be read, decoded, or degraded by this θ because it is too small,
    becomes a `problem`, never an exception."""
    try:
        data = job.source.read_bytes()
        with enforce_limits():
            pixels = shrink(decode(data), job.size)
        if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
            return Result(problem=f"has more than {MAX_PIXELS // 10**6} megapixels: give a --size")
    except UndecodableImage as error:
        return Result(problem=str(error))
    except OSError as error:
        return Result(problem=f"cannot be read ({error.strerror})")
    except BadInput as error:
        return Result(problem=str(error))
    try:
        png = encode_png(_degraded(pixels, job), LQ_PNG)
    except BadInput as error:
        return Result(problem=f"cannot be degraded: {str(error).rstrip('.')}")
    return Result(png, hashlib.sha256(png).hexdigest(), hashlib.sha256(data).hexdigest())


def _degraded(pixels: Pixels, job: Job) -> Pixels:
    if job.engine == "basicsr":
        from degrade.engines import basicsr_reference

        return to_uint8(basicsr_reference.apply(to_float(pixels), job.theta))
    return apply_to_pixels(pixels, job.theta)


def compare_job(job: Job) -> Comparison:
    """Degrade again and compare with the frozen file."""
    made = run_job(job)
    regenerated = None if made.problem else made.sha256
    source = None if made.problem else made.source_sha256
    try:
        assert job.target is not None
        data = job.target.read_bytes()
    except OSError:
        return Comparison(None, regenerated, source, None)
    on_disk = hashlib.sha256(data).hexdigest()
    if regenerated is None or on_disk == regenerated:
        return Comparison(on_disk, regenerated, source, None if regenerated is None else 0)
    try:
        with enforce_limits():
            here, again = decode(data), decode(made.png)
    except UndecodableImage:
        return Comparison(on_disk, regenerated, source, 255)
    same_size = here.shape == again.shape
    difference = int(np.abs(here.astype(np.int16) - again.astype(np.int16)).max()) if same_size else 255
    return Comparison(on_disk, regenerated, source, difference)


def run_jobs(jobs: Sequence[Job | FailedUnit]) -> list[Result]:
    """`run_job` for pictures of others: one that no process comes through is a `problem` too."""
    return [
        Result(problem=FAILURE_TEXTS[j.reason]) if isinstance(j, FailedUnit) else run_job(j)
        for j in guard_units(jobs, limited=False)
    ]


def compare_jobs(jobs: Sequence[Job | FailedUnit]) -> list[Comparison]:
    """`compare_job` for pictures of others."""
    nothing = Comparison(None, None, None, None)
    return [nothing if isinstance(job, FailedUnit) else compare_job(job) for job in guard_units(jobs, limited=False)]


@contextmanager
def open_job_pool(workers: int | None, jobs: int) -> Iterator[BatchMap]:
    """The pool of manifests.runtime.workers, no larger than there are jobs; for our own crops, which one process
    handles as well as this one does."""
    fewer = workers if workers is None or workers < 1 else max(1, min(workers, jobs))
    with open_pool(None if fewer == 1 else fewer, _start_worker) as run:
        yield run


@contextmanager
def open_untrusted_job_pool(
    workers: int | None, jobs: int
) -> Iterator[Callable[[JobsFunction, list[Job]], Iterator[Any]]]:
    """The same for pictures of others and the functions of several jobs: a process stands what they do to it, also one
    alone; None works here."""
    fewer = workers if workers is None or workers < 1 else max(1, min(workers, jobs))
    with open_pool(fewer, _start_worker) as run:
        yield lambda function, given: chain.from_iterable(run(function, [[job] for job in given]))


def _start_worker() -> None:
    cv2.setNumThreads(1)  # one core a worker; the result does not depend on it
