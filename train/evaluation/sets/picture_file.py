"""Keeps the decoded pictures of an evaluation in a temporary file.

Each picture is decoded once, and the memory of the process does not grow with the number of pictures.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref

import numpy as np

from manifests.errors import BadInput

BLOCK = 2**26  # The number (ours) of bytes that are mapped into memory at once.
_ALIGNMENT = 64  # bytes


class PictureFile:
    """Keeps arrays in a temporary file that has no name and disappears when the process ends.

    An array that `keep` returns is read-only. The values of the array are read from the file when they are used.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)  # the arrays can still be read after the file is closed
        self._blocks: list[mmap.mmap] = []
        self._start, self._used = 0, 0  # where the last block starts, and its number of used bytes

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Writes an array to the file, and returns an array that reads from the file.

        Raises BadInput if the disk is full.
        """
        array = np.ascontiguousarray(array)
        try:
            if not self._blocks or self._used + array.nbytes > len(self._blocks[-1]):
                self._add_block(array.nbytes)
            self._file.seek(self._start + self._used)
            left = memoryview(array.tobytes())
            while left:  # a disk that is nearly full stores only a part, and raises OSError only for the next part
                left = left[self._file.write(left) :]
        except OSError as error:
            raise BadInput(
                f"The temporary folder {tempfile.gettempdir()} cannot keep the pictures of the set ({error.strerror}). "
                "Set the environment variable TMPDIR to a folder with more room."
            ) from None
        kept = np.ndarray(array.shape, array.dtype, self._blocks[-1], self._used)
        self._used += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return kept

    def release(self) -> None:
        """Removes the pictures from the memory of the process, but not from the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for block in self._blocks:
                block.madvise(mmap.MADV_DONTNEED)

    def _add_block(self, least: int) -> None:
        self.release()
        self._start += len(self._blocks[-1]) if self._blocks else 0
        length = -(-max(BLOCK, least) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._file.truncate(self._start + length)
        block = mmap.mmap(self._file.fileno(), length, access=mmap.ACCESS_READ, offset=self._start)
        self._blocks.append(block)
        self._used = 0
