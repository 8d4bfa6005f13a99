"""Restores many photos: the network restores batches of faces, while threads read, search and write other photos.

Each photo has a generator (`restore_photo`). The generator yields a Step with faces, receives the restored faces, and
returns its result. Threads run the generators, and the calling thread runs the network.

The calling thread waits for the steps of the threads in the order in which it started them. The batches therefore do
not depend on the speed of the threads, and the same call gives the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np

from manifests.runtime.workers import count_cores
from train.restore.batches.face_batches import FaceBatches, FaceInput

MOST_THREADS = 8  # The largest number of threads (ours).
# No photo is started while the photos in memory need more than this number (ours) of bytes.
MOST_HELD = 2**30

Result = TypeVar("Result")


class Step(NamedTuple):
    """Holds the faces that must be restored before the generator of a photo can continue."""

    faces: list[FaceInput]
    held: int  # the number of bytes that the photo needs in memory while it waits


# If the network could not restore a face, the generator receives an error instead of the face.
Steps = Generator[Step, list[np.ndarray | Exception], Result]


@dataclass
class _Photo(Generic[Result]):
    index: int
    steps: Steps[Result]
    is_unread: bool = True  # False as soon as `steps` has returned its first step
    held: int = 0
    # the restored faces of the present step; None for a face that is not restored yet
    answers: list[np.ndarray | Exception | None] = field(default_factory=list)


def restore_in_batches(
    photos: Sequence[Callable[[], Steps[Result]]],
    batches: FaceBatches,
    finished: dict[int, Result],
    cores: int | None = None,
) -> Generator[None]:
    """Restores photos, and puts the result of each photo into `finished`, under the index of the photo.

    Each item of `photos` returns the generator of a photo, which must not raise an error. The function yields after
    each finished photo. If the caller closes this iterator early, the threads finish the photos on which they work, and
    start no others.

    The number of photos in work is at most the batch size plus two for each thread. Of these, at most two for each
    thread have not been read yet, because the size of an unread photo is not known. `cores` is the number of cores for
    the threads, or None for all cores.
    """
    threads = min(max(cores or count_cores(), 2), MOST_THREADS)
    executor = ThreadPoolExecutor(threads, thread_name_prefix="photos")
    cores_of_opencv = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the threads of this function already use all cores
    waiting = iter(enumerate(photos))
    coming: deque[tuple[_Photo[Result], Future[Any]]] = deque()  # Photos on which threads work.
    queue: deque[tuple[_Photo[Result], int, FaceInput]] = deque()  # Faces that wait for the network.
    in_work = unread = held = 0  # Photos in work, photos among them that were not read yet, and bytes in memory.

    def send(photo: _Photo[Result], answers: list[Any] | None) -> None:
        coming.append((photo, executor.submit(_advance, photo.steps, answers)))

    try:
        while True:
            # Start photos, and collect faces until the batch is full.
            while len(queue) < batches.size:
                while in_work < batches.size + 2 * threads and unread < 2 * threads and held <= MOST_HELD:
                    if (following := next(waiting, None)) is None:
                        break
                    send(_Photo(following[0], following[1]()), None)
                    in_work, unread = in_work + 1, unread + 1
                if not coming:
                    break
                photo, future = coming.popleft()
                step = future.result()
                unread -= photo.is_unread
                photo.is_unread = False
                if isinstance(step, Step):
                    held += step.held - photo.held
                    photo.held, photo.answers = step.held, [None] * len(step.faces)
                    queue.extend((photo, slot, face) for slot, face in enumerate(step.faces))
                    continue
                finished[photo.index] = step
                in_work, held = in_work - 1, held - photo.held
                yield
            if not queue:
                return
            # Restore a batch. A photo goes on when its last face is restored.
            batch = [queue.popleft() for _ in range(min(batches.size, len(queue)))]
            restored = batches.restore([face for *_, face in batch])
            for (photo, slot, _), answer in zip(batch, restored, strict=True):
                photo.answers[slot] = answer
                if slot == len(photo.answers) - 1:
                    send(photo, photo.answers)
                    photo.answers = []
    finally:
        executor.shutdown(cancel_futures=True)
        cv2.setNumThreads(cores_of_opencv)
        for photo, future in coming:
            if not future.cancelled() and not isinstance(future.result(), Step):
                finished[photo.index] = future.result()


def run_steps(generators: Sequence[Steps[Result]], batches: FaceBatches) -> list[Result]:
    """Runs generators without threads, and returns their results in order.

    The faces of all generators are batched together: first the faces of the first steps, then the faces of the second
    steps, and so on.
    """
    results: dict[int, Result] = {}
    coming = {index: _advance(steps, None) for index, steps in enumerate(generators)}
    while coming:
        waiting = {index: step for index, step in coming.items() if isinstance(step, Step)}
        results |= {index: step for index, step in coming.items() if not isinstance(step, Step)}
        restored = iter(batches.restore([face for step in waiting.values() for face in step.faces]))
        coming = {
            index: _advance(generators[index], [next(restored) for _ in step.faces]) for index, step in waiting.items()
        }
    return [results[index] for index in range(len(generators))]


def _advance(steps: Steps[Result], answers: list[Any] | None) -> Step | Result:
    """Runs a generator until its next step or until its end."""
    try:
        return next(steps) if answers is None else steps.send(answers)
    except StopIteration as end:
        result: Result = end.value
        return result
