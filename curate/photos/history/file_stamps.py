"""Compares size and times of a file with its row, to find the files that have changed."""

from __future__ import annotations

import os
from dataclasses import replace

from manifests.ledger.records import File
from manifests.pictures.extra_formats import EXTRAS, is_installed

_LARGEST = 2**63 - 1  # the ledger stores a time as a 64-bit number of nanoseconds, which ends in the year 2262


def stamp_row(row: File, status: os.stat_result) -> File:
    """Returns the row of a file with the size and the times in `status`.

    A time before 1677 or after 2262 becomes the first or the last time that the ledger can store.
    """
    mtime_ns, ctime_ns = (max(-_LARGEST, min(time, _LARGEST)) for time in (status.st_mtime_ns, status.st_ctime_ns))
    return replace(row, bytes=status.st_size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)


def is_unchanged(row: File | None, status: os.stat_result) -> bool:
    """Returns whether a file was read before, and has the same size and times as in its row.

    A program can set the time of the last change (mtime) to any value, but the system sets ctime itself. If a file was
    changed, its ctime therefore differs, even if its size and mtime stayed the same. A file that could not be read
    without a library counts as changed if the library is installed now.
    """
    if row is None or row.bytes is None or (row.reason in EXTRAS and is_installed(row.reason)):
        return False
    return stamp_row(row, status) == row
