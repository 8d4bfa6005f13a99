"""Writes the folder of an export. The folder is never visible in a half-written state.

The same content gives the same bytes.
"""

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
from manifests.runtime.files import find_blocking_file, sha256_bytes

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # all other chunks of a PNG are metadata


class OutputFolder:
    """Writes the files of an export, and counts files and bytes.

    The name of a file is its path relative to the folder.
    """

    def __init__(self, root: Path, progress: Callable[[int], None] = lambda _: None) -> None:
        """After each image, calls `progress` with the number of images that were read."""
        self.root = root
        self.files = 0
        self.bytes = 0  # Number of written bytes. A hard link adds no bytes.
        self._hashes: dict[Path, str] = {}  # Maps an image file of the dataset to the sha256 of the exported PNG file.
        # Maps an image file of the dataset to the first file of the export that contains the image.
        self._places: dict[Path, str] = {}
        self._first_copies: dict[Path, Path] = {}  # Maps an image file of the dataset to the path of its first copy.
        self._progress, self._images_read = progress, 0

    def add_image(self, name: str, source: Path) -> None:
        """Write the PNG file `source` without its metadata.

        If the disk allows hard links, a second copy is a hard link.
        """
        path, first_copy = self._make_path(name), self._first_copies.setdefault(source, self.root / name)
        self.note_place(source, name)
        self.files += 1
        if first_copy != path:
            try:
                os.link(first_copy, path)
            except OSError:
                shutil.copyfile(first_copy, path)
                self._flush(path)
            return
        self._write(path, self.read_image(source))

    def read_image(self, source: Path) -> bytes:
        """Returns the bytes of a PNG file without its metadata, and reports progress."""
        data = strip_png_metadata(source)
        self._hashes[source] = sha256_bytes(data)
        self._images_read += 1
        self._progress(self._images_read)
        return data

    def note_place(self, source: Path, name: str) -> None:
        """Record that the file `name` of the export contains the image `source`.

        If an image is in several files, only the first file is recorded.
        """
        self._places.setdefault(source, name)

    def describe_image(self, source: Path) -> tuple[str, str]:
        """Returns the file of the export that contains the image `source`, and the sha256 of the exported PNG file."""
        return self._places[source], self._hashes[source]

    def add_bytes(self, name: str, content: bytes) -> None:
        self.files += 1
        self._write(self._make_path(name), content)

    def add_table(self, name: str, table: pa.Table) -> None:
        """Write a table as a parquet file."""
        pq.write_table(table, self._make_path(name))
        self.count_file(name)

    def count_file(self, name: str) -> None:
        """Flush and count the file `name`, which a library has written into the folder."""
        self.files += 1
        self._flush(self.root / name)
        self.bytes += (self.root / name).stat().st_size

    @contextmanager
    def open_stream(self, name: str) -> Iterator[IO[bytes]]:
        """Yields an open file into which the caller writes the content piece by piece."""
        self.files += 1
        path = self._make_path(name)
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            self.bytes += file.tell()

    def _make_path(self, name: str) -> Path:
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
    """Returns the bytes of a PNG file without its metadata chunks. The pixels do not change.

    Raises LedgerBroken if the file is missing or broken.
    """
    broken = LedgerBroken(f"{source} is missing or broken. Run `likeness manifest check` to see all broken files.")
    try:
        data = source.read_bytes()
    except OSError:
        raise broken from None
    chunks, start = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    if not data.startswith(_PNG_SIGNATURE):
        raise broken
    # a chunk of a PNG consists of its length (4 bytes), its kind (4 bytes), its data, and a checksum (4 bytes)
    while start < len(data):
        if start + 12 > len(data):
            raise broken
        (length,) = struct.unpack_from(">I", data, start)
        kind, end = data[start + 4 : start + 8], start + 12 + length
        if end > len(data) or zlib.crc32(data[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise broken
        if kind in _PIXEL_CHUNKS:
            chunks.append(data[start:end])
        start = end
        if kind == b"IEND":
            return b"".join(chunks)
    raise broken


def check_output_folder(dataset: Path, out: Path) -> None:
    """Raise BadInput if `out` is a file, a dataset, or a folder inside the dataset."""
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{file} is a file, but an export is a folder. Name another folder with --out.")
    out_path, dataset_path = Path(os.path.realpath(out)), Path(os.path.realpath(dataset))
    if dataset_path == out_path or dataset_path in out_path.parents:
        raise BadInput(
            f"--out {out} is inside the dataset, but an export is made to be shared. Name a folder outside the dataset."
        )
    if os.path.lexists(out / LEDGER_NAME):
        raise BadInput(f"--out {out} is a dataset. Name a new folder.")


@contextmanager
def publish_folder(out: Path, progress: Callable[[int], None] = lambda _: None) -> Iterator[OutputFolder]:
    """Yields a temporary folder. Renames the folder to `out` when all of its files are on the disk.

    After an error, the temporary folder is removed. The temporary folders of killed processes are removed too. Raises
    BadInput if another process has put files into `out`. `progress` is passed to OutputFolder.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    for folder in out.parent.glob(f".{out.name}.*.tmp"):
        if not _is_running(folder.name.split(".")[-2]):
            shutil.rmtree(folder, ignore_errors=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield OutputFolder(temporary, progress)
        for place in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            _flush_folder(place)
        try:
            temporary.rename(out)  # the rename replaces an empty folder `out`
        except OSError:
            raise BadInput(f"--out {out} is not empty any more. Name a new or an empty folder.") from None
        _flush_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_running(process_id: str) -> bool:
    """Returns whether a process with this id exists. Returns False if the text is not a number."""
    try:
        os.kill(int(process_id), 0)
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
