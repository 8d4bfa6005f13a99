"""Does anything of what was removed still lie in a folder?

Every byte of every file is looked at, and inside the ledger, parquet tables and pixel arrays every value, because
compression hides bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME

_HEAD = 8  # bytes that are compared first; nothing shorter is looked for
_CHUNK = 1 << 22  # bytes looked at together
_INSIDE = 64  # bytes from the middle of a picture file by which it is known inside an archive (ours)


@dataclass(frozen=True)
class Traces:
    """What must not be found. All empty: nothing is."""

    photos: tuple[str, ...] = ()  # sha256 in hex
    faces: tuple[str, ...] = ()  # face ids
    people: tuple[str, ...] = ()  # identity ids
    uris: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()  # sha256 of PNG files: crops, low-quality images
    middles: tuple[str, ...] = ()  # hex: bytes from the middle of these files, see `inside_of`
    embeddings: tuple[str, ...] = ()  # hex of float32 rows
    pixels: tuple[str, ...] = ()  # sha256 of rows of crops.npy

    def needles(self) -> dict[bytes, str]:
        """The bytes that are looked for, and what each is."""
        found: dict[bytes, str] = {}
        for what, hexes in (("photo hash", self.photos), ("face id", self.faces)):
            found |= {text.encode(): what for text in hexes}
            found |= {bytes.fromhex(text): what for text in hexes if re.fullmatch("(?:[0-9a-f]{2})+", text)}
        for what, texts in (("person's id", self.people), ("file name", self.uris)):
            found |= {text.encode(): what for text in texts}
        for what, hexes in (("picture", self.middles), ("embedding", self.embeddings)):
            found |= {bytes.fromhex(text): what for text in hexes}
        return {needle: what for needle, what in found.items() if len(needle) >= _HEAD}


def sample_middle(data: bytes) -> str:
    """Hex of some bytes from the middle of a picture file, empty where it has too few."""
    middle = len(data) // 2
    return data[middle : middle + _INSIDE].hex() if len(data) > 4 * _INSIDE else ""


class _Bytes:
    """Many needles looked for at once: by their first two bytes, then by the first eight, then whole."""

    def __init__(self, needles: dict[bytes, str]) -> None:
        self.by_head: dict[bytes, list[tuple[bytes, str]]] = defaultdict(list)
        for needle, what in needles.items():
            self.by_head[needle[:_HEAD]].append((needle, what))
        self.longest = max(map(len, needles), default=_HEAD)
        self.heads = np.sort(np.frombuffer(b"".join(self.by_head), "<u8"))
        self.pairs = np.zeros(1 << 16, bool)
        self.pairs[(self.heads & 0xFFFF).astype(np.int64)] = True

    def found_in(self, data: bytes) -> set[str]:
        if len(data) < _HEAD or not self.by_head:
            return set()
        array = np.frombuffer(data, np.uint8)
        first = array[: len(array) - _HEAD + 1].astype(np.uint16)
        first |= array[1 : len(array) - _HEAD + 2].astype(np.uint16) << np.uint16(8)
        places = np.flatnonzero(self.pairs[first])
        windows = np.lib.stride_tricks.sliding_window_view(array, _HEAD)[places]
        heads = np.ascontiguousarray(windows).view("<u8").ravel()
        found = set()
        for place in places[np.isin(heads, self.heads)].tolist():
            for needle, what in self.by_head[data[place : place + _HEAD]]:
                if data.startswith(needle, place):
                    found.add(what)
        return found

    def found_in_file(self, path: Path) -> set[str]:
        found: set[str] = set()
        with path.open("rb") as file:
            kept = b""
            while chunk := file.read(_CHUNK):
                found |= self.found_in(kept + chunk)
                kept = (kept + chunk)[-(self.longest - 1) :]
        return found


@dataclass(frozen=True)
class Proof:
    """What was looked at and what was found, a sentence each; `own_files` are the photos' own files, the user's."""

    files: int
    bytes: int
    rows: int  # of the ledger
    remains: tuple[str, ...]
    own_files: tuple[str, ...]


def search_traces(dataset: Path, wanted: Traces, folders: Iterable[Path] = (), skip: Iterable[Path] = ()) -> Proof:
    """Look for `wanted` in the dataset's folder and in further ones; the files `skip` are left out."""
    seek, left = _Bytes(wanted.needles()), {path.absolute() for path in skip}
    found: list[str] = []
    own: list[str] = []
    files = size = 0
    for path in _files([dataset, *folders]):
        if path.absolute() in left:
            continue
        files, size = files + 1, size + path.stat().st_size
        sha256 = _sha256(path)
        if sha256 in wanted.photos:
            own.append(str(path))
            continue
        kinds = seek.found_in_file(path) | _in_tables(path, seek, wanted)
        if sha256 in wanted.pictures:
            kinds.add("picture")
        found += [f"{what} in {path}" for what in sorted(kinds)]
    rows, inside = _in_ledger(dataset, wanted)
    return Proof(files, size, rows, (*found, *inside), tuple(own))


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    seen: set[str] = set()
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in sorted(names):
                path = Path(place, name)
                real = os.path.realpath(path)
                if path.is_file() and not path.is_symlink() and real not in seen:
                    seen.add(real)
                    yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_tables(path: Path, seek: _Bytes, wanted: Traces) -> set[str]:
    """What lies inside a parquet table or an array of pixels."""
    found: set[str] = set()
    try:
        if path.suffix == ".parquet":
            for column in pq.read_table(path).itercolumns():
                for chunk in column.chunks:
                    found |= _in_column(chunk, seek, wanted)
        elif path.suffix == ".npy" and wanted.pixels:
            array = np.load(path, mmap_mode="r")
            if array.dtype == np.uint8 and array.ndim == 4:
                hashes = {hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest() for row in array}
                found |= {"pixels"} if hashes & set(wanted.pixels) else set()
    except (OSError, ValueError, EOFError, pa.ArrowException):
        pass  # no table after all: its bytes were looked at
    return found


def _in_column(chunk: pa.Array, seek: _Bytes, wanted: Traces) -> set[str]:
    """The buffers of a column hold its values one after the other, uncompressed."""
    found: set[str] = set()
    if pa.types.is_list(chunk.type) and pa.types.is_float64(chunk.type.value_type):  # embeddings of others' tables
        chunk = chunk.flatten().cast(pa.float32())
    for buffer in chunk.buffers():
        if buffer is not None:
            found |= seek.found_in(buffer.to_pybytes())
    if pa.types.is_binary(chunk.type):
        hashes = {hashlib.sha256(value).hexdigest() for value in chunk.to_pylist() if value is not None}
        found |= {"picture"} if hashes & {*wanted.pictures, *wanted.photos} else set()
    return found


def _in_ledger(dataset: Path, wanted: Traces) -> tuple[int, list[str]]:
    """Rows of the ledger, and the tables in which an id or a name stands, in any column."""
    if not (dataset / LEDGER_NAME).is_file():
        return 0, []
    texts = [*wanted.photos, *wanted.faces, *wanted.people, *wanted.uris]
    with Ledger.open(dataset, finishing=True) as ledger:
        return ledger.count_rows_with(texts)
