"""A folder that appears whole or not at all, with the same bytes for the same content."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.paths import LEDGER_NAME
from manifests.runtime.files import find_blocking_file

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # all that a picture needs; the rest is metadata


class OutputFolder:
    """Where an export writes its files, by relative path."""

    def __init__(self, root: Path, read: Callable[[int], None] = lambda _: None) -> None:
        """`read` is told, after each picture, how many were read."""
        self.root = root
        self.files = 0
        self.bytes = 0
        self._written: dict[Path, Path] = {}
        self._count_read, self._pictures = read, 0

    def add_image(self, name: str, source: Path) -> None:
        """The PNG at `source`, without metadata; the same source again is a hard link, where the disk has such."""
        path, first = self._place(name), self._written.setdefault(source, self.root / name)
        self.files += 1
        if first != path:
            try:
                os.link(first, path)
            except OSError:
                shutil.copyfile(first, path)
                self._flush(path)
            return
        self._write(path, self.read_image(source))

    def read_image(self, source: Path) -> bytes:
        """A picture without metadata."""
        data = strip_png_metadata(source)
        self._pictures += 1
        self._count_read(self._pictures)
        return data

    def add_bytes(self, name: str, content: bytes) -> None:
        self.files += 1
        self._write(self._place(name), content)

    def add_table(self, name: str, table: pa.Table) -> None:
        """A parquet file."""
        self.files += 1
        path = self._place(name)
        pq.write_table(table, path)
        self._flush(path)
        self.bytes += path.stat().st_size

    @contextmanager
    def open_stream(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write piece by piece."""
        self.files += 1
        path = self._place(name)
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            self.bytes += file.tell()

    def _place(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write(self, path: Path, content: bytes) -> None:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.bytes += len(content)

    def _flush(self, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def strip_png_metadata(source: Path) -> bytes:
    """The bytes of a PNG without its metadata; pixels untouched. Raises LedgerBroken for a file that is missing or
    broken."""
    broken = LedgerBroken(f"{source} is missing or broken: `likeness manifest check` says what to make again.")
    try:
        data = source.read_bytes()
    except OSError:
        raise broken from None
    kept, at = [_SIGNATURE], len(_SIGNATURE)
    if not data.startswith(_SIGNATURE):
        raise broken
    while at < len(data):
        if at + 12 > len(data):
            raise broken
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise broken
        if kind in _PIXELS:
            kept.append(data[at:end])
        at = end
        if kind == b"IEND":
            return b"".join(kept)
    raise broken


def check_output_folder(dataset: Path, out: Path) -> None:
    """Raise BadInput where an export cannot be written to `out`."""
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{file} is a file and an export is a folder: name another one for --out.")
    here, inside = Path(os.path.realpath(out)), Path(os.path.realpath(dataset))
    if inside == here or inside in here.parents:
        raise BadInput(f"--out {out} lies in the dataset, and an export is for others: name a folder outside it.")
    if os.path.lexists(out / LEDGER_NAME):
        raise BadInput(f"--out {out} is a dataset: name a new folder.")


@contextmanager
def publish_folder(out: Path, read: Callable[[int], None] = lambda _: None) -> Iterator[OutputFolder]:
    """A folder to write into that becomes `out` when all is on the disk; what goes wrong leaves nothing behind."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f".{out.name}.*.tmp"):
        if not _alive(stale.name.split(".")[-2]):  # a killed process left it
            shutil.rmtree(stale, ignore_errors=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        folder = OutputFolder(temporary, read)
        yield folder
        for place in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            _flush_folder(place)
        try:
            temporary.rename(out)  # also onto an empty folder
        except OSError:
            raise BadInput(f"--out {out} holds something else by now: name a new or an empty folder.") from None
        _flush_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
