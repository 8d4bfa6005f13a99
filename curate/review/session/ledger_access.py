"""Looks at the file of the ledger between two requests: whether it can be written, and whether it has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from manifests.errors import LedgerLocked
from manifests.ledger.paths import LEDGER_NAME

Item = TypeVar("Item")
Stamp = tuple[tuple[int, int, int], ...]
PATIENCE = 2.0  # longest time (ours) in seconds that an act waits for another command


def retry(work: Callable[[], Item]) -> Item:
    """Returns the result of `work`.

    If another process uses the ledger, `work` is repeated for up to PATIENCE seconds.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except LedgerLocked:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def find_read_only(dataset: Path) -> str:
    """Returns "" if decisions can be recorded. Returns a sentence if the files of the dataset are read-only."""
    if os.access(dataset, os.W_OK) and os.access(dataset / LEDGER_NAME, os.W_OK):
        return ""
    return f"{dataset} is read-only. The pages show the dataset, but nothing can be changed."


def read_stamp(dataset: Path) -> Stamp:
    """Returns numbers that change when a process writes to the ledger."""
    stamps = []
    for name in (LEDGER_NAME, f"{LEDGER_NAME}.wal"):
        try:
            status = (dataset / name).stat()
        except OSError:
            stamps.append((0, 0, 0))
        else:
            stamps.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(stamps)
