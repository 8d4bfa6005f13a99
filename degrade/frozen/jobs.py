"""Runs jobs in pools of processes. A job turns an image file and a θ into the bytes of a PNG.

The worker processes only return bytes. The parent process writes all files, so every file and every row is complete,
even if the command is killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from degrade.operations.apply import MAX_PIXELS, apply_to_pixels
from degrade.operations.pixels import Pixels, shrink, to_float, to_uint8
from degrade.theta import Theta
from manifests.errors import BadInput
from manifests.pictures.images import UndecodableImage, decode
from manifests.pictures.png_files import LQ_PNG, encode_png
from manifests.runtime.cluster.cluster_pool import FILES_OF_PLACE, open_cluster_pool
from manifests.runtime.cluster.connection import connect_to_cluster
from manifests.runtime.workers import (
    FAILURE_TEXTS,
    BatchMap,
    FailedUnit,
    enforce_limits,
    guard_units,
    open_pool,
)
from manifests.stores.failures import DENIED, StoreError

ENGINES = ("exact", "basicsr")
# The number of jobs in one task of a cluster (ours). In addition to the time of its jobs, each task takes 6 ms
# (docs/scale.md).
JOBS_A_TASK = 8

Advance = Callable[[int], None]  # the function receives the number of images finished since the last call
JobsFunction = Callable[[Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class Job:
    """Describes the work for one image: area-resize `source` to `size`, then degrade the resized image with `theta`."""

    source: Path
    size: int | None  # the longer side of the image in pixels; None keeps the size of the source
    theta: Theta
    target: Path | None = None  # the frozen file that `compare_job` compares with the new image
    engine: str = "exact"


@dataclass(frozen=True)
class Result:
    """Holds the PNG of a job and the hashes of the PNG and the source, or the problem that prevented the job."""

    png: bytes = b""
    sha256: str = ""
    source_sha256: str = ""
    problem: str | None = None  # the predicate of a sentence about the source, for example "is empty"
    store_failed: bool = False  # whether a store failed to send the source; not if the store denies the access


@dataclass(frozen=True)
class Comparison:
    """Holds the hashes of a frozen file, of the image that was made again, and of the source.

    A field is None if a file that the field needs could not be read.
    """

    disk_sha256: str | None
    regenerated_sha256: str | None
    source_sha256: str | None
    # the largest difference of a pixel value between the two images, in 1/255; 255 if the sizes differ
    difference: int | None


def check_engine(engine: str) -> None:
    """Raises BadInput if the engine is unknown or not installed."""
    if engine not in ENGINES:
        raise BadInput(
            f"There is no engine {engine}; the engines are {', '.join(ENGINES)} and ray. "
            "Without --engine, exact is used."
        )
    if engine == "basicsr":
        from degrade.engines import basicsr_reference

        basicsr_reference.load_basicsr()


def run_job(job: Job) -> Result:
    """Degrades one image and returns its PNG.

    If the source cannot be read or decoded, or is too small for the θ, the result has a `problem`, and no exception is
    raised.
    """
    try:
        data = job.source.read_bytes()
        with enforce_limits():
            pixels = shrink(decode(data), job.size)
        if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
            return Result(problem=f"has more than {MAX_PIXELS // 10**6} megapixels: use --size")
    except UndecodableImage as error:
        return Result(problem=str(error))
    except StoreError as error:
        return Result(problem=f"cannot be read ({error.strerror})", store_failed=error.reason != DENIED)
    except OSError as error:
        return Result(problem=f"cannot be read ({error.strerror})")
    except BadInput as error:
        return Result(problem=str(error))
    try:
        png = encode_png(_degrade(pixels, job), LQ_PNG)
    except BadInput as error:
        return Result(problem=f"cannot be degraded: {str(error).rstrip('.')}")
    return Result(png, hashlib.sha256(png).hexdigest(), hashlib.sha256(data).hexdigest())


def _degrade(pixels: Pixels, job: Job) -> Pixels:
    if job.engine == "basicsr":
        from degrade.engines import basicsr_reference

        return to_uint8(basicsr_reference.apply(to_float(pixels), job.theta))
    return apply_to_pixels(pixels, job.theta)


def compare_job(job: Job) -> Comparison:
    """Degrades one image again and compares the result with the frozen file `job.target`."""
    result = run_job(job)
    regenerated = None if result.problem else result.sha256
    source = None if result.problem else result.source_sha256
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
            frozen, again = decode(data), decode(result.png)
    except UndecodableImage:
        return Comparison(on_disk, regenerated, source, 255)
    same_size = frozen.shape == again.shape
    difference = int(np.abs(frozen.astype(np.int16) - again.astype(np.int16)).max()) if same_size else 255
    return Comparison(on_disk, regenerated, source, difference)


def run_jobs(jobs: Sequence[Job | FailedUnit]) -> list[Result]:
    """Runs `run_job` for untrusted images. If a worker process failed, the result of its image has a `problem`."""
    return [
        Result(problem=FAILURE_TEXTS[job.reason]) if isinstance(job, FailedUnit) else run_job(job)
        for job in guard_units(jobs, limited=False)
    ]


def compare_jobs(jobs: Sequence[Job | FailedUnit]) -> list[Comparison]:
    """Runs `compare_job` for untrusted images. If a worker process failed, all fields for its image are None."""
    failure = Comparison(None, None, None, None)
    return [failure if isinstance(job, FailedUnit) else compare_job(job) for job in guard_units(jobs, limited=False)]


@contextmanager
def open_job_pool(
    workers: int | None, jobs: int, cluster: str | None = None, sources: Sequence[Path] = ()
) -> Iterator[BatchMap]:
    """Yields a function like `map` that runs jobs in at most `workers` processes. Use the function only for crops that
    Likeness made.

    With one worker, the jobs run in the calling process. `cluster` is the address of a Ray cluster that runs the jobs,
    or `local` to start Ray on this machine with `workers` cores. The nodes of a cluster must see one of the first
    `sources`.
    """
    count = workers if workers is None or workers < 1 else max(1, min(workers, jobs))
    if cluster is not None and jobs:
        with _open_cluster(cluster, count, sources) as run:
            yield lambda function, jobs: chain.from_iterable(run(partial(_run_each, function), _divide(jobs)))
        return
    with open_pool(None if count == 1 else count, _start_worker) as run:
        yield run


@contextmanager
def open_untrusted_job_pool(
    workers: int | None, jobs: int, cluster: str | None = None, sources: Sequence[Path] = ()
) -> Iterator[Callable[[JobsFunction, list[Job]], Iterator[Any]]]:
    """Yields a function that maps `run_jobs` or `compare_jobs` over untrusted images in at most `workers` processes.

    The images are read in worker processes, even with one worker, because a damaged image can crash or block the
    process that decodes it. If `workers` is None, the jobs run in the calling process. `cluster` and `sources` are the
    same as in `open_job_pool`.
    """
    count = workers if workers is None or workers < 1 else max(1, min(workers, jobs))
    if cluster is not None and jobs:
        with _open_cluster(cluster, count, sources) as run:
            yield lambda function, jobs: chain.from_iterable(run(function, _divide(jobs)))
        return
    with open_pool(count, _start_worker) as run:
        yield lambda function, batch: chain.from_iterable(run(function, [[job] for job in batch]))


@contextmanager
def _open_cluster(cluster: str, workers: int | None, sources: Sequence[Path]) -> Iterator[BatchMap]:
    files = [sources[:FILES_OF_PLACE]]
    with connect_to_cluster(cluster, workers) as ray, open_cluster_pool(ray, _start_worker, files=files) as run:
        yield run


def _divide(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    rest = iter(jobs)
    return iter(lambda: list(islice(rest, JOBS_A_TASK)), [])


def _run_each(function: Callable[[Job], Any], jobs: Sequence[Job]) -> list[Any]:
    return [function(job) for job in jobs]


def _start_worker() -> None:
    cv2.setNumThreads(1)  # each worker uses one core; the result does not depend on the number of threads
