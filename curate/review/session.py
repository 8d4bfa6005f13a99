"""The review of one dataset: the view in memory, and what was recorded in this session."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curate.review.view import View, read_view
from manifests.errors import LedgerLocked
from manifests.ledger.paths import LEDGER_NAME, check_ledger_exists

Stamp = tuple[tuple[int, int, int], ...]


class Session:
    """The open review of a dataset. Between two requests, no connection to the ledger is open."""

    def __init__(self, dataset: Path) -> None:
        """Reads the ledger. Raises LedgerError if the ledger cannot be read."""
        self.dataset = dataset
        self.name = dataset.resolve().name
        self.read_only = _find_read_only(dataset)  # a sentence, or "" if decisions can be recorded
        self.notice = ""  # a sentence about another command that uses the ledger, or ""
        self.lock = threading.RLock()  # the server answers requests in several threads
        self._stamp = _read_stamp(dataset)
        self._view = read_view(dataset)
        self.revision = 1  # rises with each change of the view

    def read(self) -> View:
        """Returns the view of the ledger's present state.

        If another command has changed the ledger, the ledger is read again. While another command writes, the view
        stays as it was, and `notice` says so. Raises LedgerMissing if the dataset was deleted.
        """
        with self.lock:
            check_ledger_exists(self.dataset)
            stamp = _read_stamp(self.dataset)
            if stamp != self._stamp or self.notice:
                try:
                    self._view = read_view(self.dataset)
                except LedgerLocked:
                    self.notice = (
                        "Another command is working on this dataset. The pages show the state before this command."
                    )
                else:
                    self._stamp, self.notice = stamp, ""
                    self.revision += 1
            return self._view

    def describe_state(self) -> dict[str, Any]:
        """Returns what every page shows about the session."""
        return {"revision": self.revision, "notice": self.notice, "read_only": self.read_only}

    def close(self, say: Callable[[str], None]) -> None:
        """Ends the review."""


def _find_read_only(dataset: Path) -> str:
    if os.access(dataset, os.W_OK) and os.access(dataset / LEDGER_NAME, os.W_OK):
        return ""
    return f"{dataset} is read-only. The pages show the dataset, but nothing can be changed."


def _read_stamp(dataset: Path) -> Stamp:
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
