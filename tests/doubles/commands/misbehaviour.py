"""Makes worker processes hang, die or use all memory, as bad photos can do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

import manifests.runtime.workers
from manifests.pictures import untrusted_images
from manifests.pictures.images import Picture

LIMIT = 1.5  # the time limit of a worker process, in seconds


def misbehave(what: str) -> None:
    if what == "hang":
        while True:
            time.sleep(0.01)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "abort":
        os.abort()
    if what == "starve":
        held = []
        while True:
            # The memory limit refuses the array when it is made, so the memory of the machine is never used.
            held.append(np.empty(2**29, np.uint8))


RIGHT = {"hang": "timed_out", "die": "crashed", "abort": "crashed", "starve": "out_of_memory"}


def short() -> None:
    manifests.runtime.workers.UNIT_SECONDS = LIMIT


# If a photo has one of these sizes (height, width), the process that reads it misbehaves.
ODD = {"hang": (61, 7), "die": (62, 7), "starve": (63, 7)}


def reads_oddly() -> None:
    short()
    honest = untrusted_images.decode_picture

    def decode_or_misbehave(source: Path, keep_original: bool, identify: bool) -> Picture:
        picture = honest(source, keep_original=keep_original, identify=identify)
        for what, size in ODD.items():
            if picture.rgb.shape[:2] == size:
                misbehave(what)
        return picture

    untrusted_images.decode_picture = decode_or_misbehave
