"""Keeps the memory of a computation with large arrays below a limit. Large arrays then lie in temporary files.

A temporary file has no name: the disk gets its space back when the array is deleted, or when the process ends or is
killed. The pages of a file that were read or written count as memory of the process until `trim` gives them back.
"""

from __future__ import annotations

import mmap
import os
import resource
import tempfile
import weakref
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from manifests.runtime.workers import count_cores

_LEAST_FILE = 2**24  # Arrays of fewer bytes (ours) are never in files.
# If a row is read from a file, Linux counts the pages around the row too: up to 2 MiB, the largest block of its file
# cache. On Linux 6.18, we measured 210 KiB for a row on one machine and 400 KiB on another machine.
_BYTES_A_READ = 2**21
# `trim` acts when the memory is within this number of bytes (ours) of the limit, or within a third (ours) of the limit.
# The smaller of the two numbers counts.
_MOST_BETWEEN_TRIMS = 2**30


class Workspace:
    """Makes arrays in memory, or in files in the folder `folder` if the memory is limited.

    `memory` is the limit in bytes for the whole process, or None for no limit. The results of a computation do not
    depend on the limit.
    """

    def __init__(self, memory: int | None = None, folder: Path | None = None) -> None:
        self.memory, self._folder = memory, folder
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def make_array(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
        """Returns an array whose elements have no defined values.

        Raises OSError if the disk has too little space for a temporary file.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        if self.memory is None or size < _LEAST_FILE:
            return np.empty(shape, dtype)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            # The space is reserved now, because a full disk would later kill the process without a message. Not every
            # system can reserve space.
            try:
                getattr(os, "posix_fallocate", lambda *_: file.truncate(size))(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._folder)) from None
            mapped = mmap.mmap(file.fileno(), size)
        self._maps.add(mapped)
        return np.frombuffer(mapped, dtype).reshape(shape)

    def watch(self, array: np.ndarray) -> None:
        """Lets `trim` also give back the pages of `array`, if `array` is a memory-mapped file that is only read."""
        base: object = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and not array.flags.writeable:
            self._maps.add(base)

    def trim(self) -> None:
        """Gives the pages of all files back if the process is near the limit. The values in the files stay."""
        if self.memory is None or measure_process() < self.memory - self.slack:
            return
        for mapped in list(self._maps):
            mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def slack(self) -> int:
        """The bytes that a computation may add between two calls of `trim`."""
        return min(_MOST_BETWEEN_TRIMS, (self.memory or 0) // 3)

    @property
    def rows_at_once(self) -> int:
        """The number of rows, anywhere in a file, that may be read between two calls of `trim`."""
        return 2**16 if self.memory is None else max(self.slack // _BYTES_A_READ, 64)

    def read_rows(self, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns `array[rows]` for row numbers in any order, int (m,). A file is read from its start to its end."""
        if self.memory is None:
            return np.asarray(array[rows])
        result = np.empty((len(rows), *array.shape[1:]), array.dtype)
        order = np.argsort(rows, kind="stable")
        parts = [order]
        if len(rows) > self.rows_at_once:
            # The rows of a part lie in a piece of the file that has a quarter of the slack.
            piece = rows[order] // max(self.slack // 4 // array.strides[0], 1)
            parts = np.split(order, np.flatnonzero(np.diff(piece)) + 1)
        for part in parts:
            result[part] = array[rows[part]]
            self.trim()
        return result

    def divide_reads(self, rows: np.ndarray, row_size: int, others: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yields the indices of `rows` in parts, int64 (part,). Every index is in one part.

        `rows`, int (m,), are rows of `row_size` bytes in a file. The indices of a part belong to `rows` that are close
        to each other. If `others`, int (m,), is given, these rows of a second read are close to each other too. Without
        a limit of the memory, one part has all indices.
        """
        if self.memory is None:
            yield np.arange(len(rows))
            return
        tile = max(self.slack // (4 * count_cores() * row_size), 2**10)
        key = rows // tile
        if others is not None:
            key = key + (others // tile) * (int(key.max(initial=0)) + 1)
        order = np.argsort(key, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def measure_process() -> int:
    """Returns the bytes of memory of this process, with the pages of files that it has read."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:  # a system without /proc: the largest memory until now
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_machine() -> int:
    """Returns the bytes of memory of this machine, or of the container if its limit is lower."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or a container without a limit
        return machine
