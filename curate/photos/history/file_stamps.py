"""Compares the size and the times of a file with the row of the file, to find files that have changed."""

from __future__ import annotations

import os
from dataclasses import replace

from manifests.ledger.records import File
from manifests.pictures.extra_formats import EXTRAS, is_installed

_LARGEST = 2**63 - 1  # the ledger stores a time as 64-bit nanoseconds; the last time is in the year 2262


def stamp_row(row: File, status: os.stat_result) -> File:
    """Returns the row of a file with the size and the times in `status`.

    A time before 1677 or after 2262 becomes the first or the last time that the ledger can store.
    """
    mtime_ns, ctime_ns = (max(-_LARGEST, min(time, _LARGEST)) for time in (status.st_mtime_ns, status.st_ctime_ns))
    return replace(row, bytes=status.st_size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)


def is_unchanged(row: File | None, status: os.stat_result) -> bool:
    """Returns whether a file was read before, and still has the size and the times of its row.

    A program can set the time of the last change (mtime) to any value, but only the system sets the ctime. If a file
    was changed, its ctime is therefore different, even if its size and its mtime are the same. If a file could not be
    read because a library was missing, and the library is installed now, the file counts as changed.
    """
    if row is None or row.bytes is None or (row.reason in EXTRAS and is_installed(row.reason)):
        return False
    return stamp_row(row, status) == row
