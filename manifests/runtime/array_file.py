"""Writes an array as an .npy file. The rows are added in small steps, so the array may be larger than memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np


class ArrayFile:
    """An .npy file to which rows are added. Use an ArrayFile as a context manager.

    `row_shape` is the shape of one row. At the end, the number of rows is written into the header. The file is not a
    memory map, because with a memory map a full disk would kill the process without a message.
    """

    def __init__(self, path: Path, dtype: np.typing.DTypeLike, row_shape: tuple[int, ...]) -> None:
        self.rows = 0
        self._dtype, self._row_shape = np.dtype(dtype), row_shape
        self._file = path.open("wb")
        self._header_size = self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Adds an array (n, *row_shape) at the end of the file."""
        if rows.dtype != self._dtype or rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of {rows.dtype} {rows.shape[1:]} instead of {self._dtype} {self._row_shape}")
        self._file.write(rows.tobytes())
        self.rows += len(rows)

    def _write_header(self) -> int:
        """Writes the header at the start of the file, and returns its size in bytes.

        The size never changes, because numpy leaves space for a larger number of rows."""
        self._file.seek(0)
        facts = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, facts)
        return self._file.tell()

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._write_header() != self._header_size:
                raise AssertionError("the header of an .npy file changed its size")
        finally:
            self._file.close()
