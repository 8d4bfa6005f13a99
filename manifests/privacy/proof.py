"""Searches folders for traces of removed people and photos, to prove that no trace is left.

The search reads the bytes of every file. In a compressed file, values do not appear as bytes. The search therefore also
reads the values in the ledger, in parquet tables and in pixel arrays.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.queries import count_mentions
from manifests.ledger.store_copy import TEXT_FILES, find_store
from manifests.runtime.files import sha256_file

_HEAD = 8  # A search first compares this many bytes of a needle. Shorter needles are ignored.
_CHUNK = 1 << 22  # Number of bytes that are read and searched at a time.
_MIDDLE = 64  # An image in an archive is recognized by this many bytes (ours) from its middle.


@dataclass(frozen=True)
class Traces:
    """The ids, names, hashes and bytes that identify the removed people and photos."""

    photos: tuple[str, ...] = ()  # The sha256 of the photos and of their files, as hex digits.
    # The hashes of the stored samples and the perceptual hashes of the photos, as hex digits.
    pictures: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()  # Face ids.
    people: tuple[str, ...] = ()  # Identity ids.
    uris: tuple[str, ...] = ()
    # Uris of files that stay. Each begins with one of `uris`, but is no trace.
    longer_uris: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # The sha256 of PNG files of crops, cleaned versions and low-quality images.
    middles: tuple[str, ...] = ()  # The result of `sample_middle` for each of these PNG files.
    embeddings: tuple[str, ...] = ()  # The bytes of float32 embeddings, as hex digits.
    pixels: tuple[str, ...] = ()  # The sha256 of the pixels of each removed crop in a snapshot.

    def make_needles(self) -> dict[bytes, str]:
        """Returns a dict that maps each searched byte string (needle) to the name of its kind of trace."""
        needles: dict[bytes, str] = {}
        for kind, hexes in (("photo hash", (*self.photos, *self.pictures)), ("face id", self.faces)):
            needles |= {text.encode(): kind for text in hexes}
            needles |= {bytes.fromhex(text): kind for text in hexes if re.fullmatch("(?:[0-9a-f]{2})+", text)}
        for kind, texts in (("person's id", self.people), ("file name", self.uris)):
            needles |= {text.encode(): kind for text in texts}
        for kind, hexes in (("image", self.middles), ("embedding", self.embeddings)):
            needles |= {bytes.fromhex(text): kind for text in hexes}
        return {needle: kind for needle, kind in needles.items() if len(needle) >= _HEAD}


def sample_middle(data: bytes) -> str:
    """Returns 64 bytes from the middle of an image file as hex digits. Returns "" for a file of 256 bytes or less."""
    middle = len(data) // 2
    return data[middle : middle + _MIDDLE].hex() if len(data) > 4 * _MIDDLE else ""


class _Searcher:
    """Searches for many byte strings (needles) at once.

    To be fast, the search compares the first two bytes of each needle, then the first eight bytes, and then all bytes.
    """

    def __init__(self, needles: dict[bytes, str], exceptions: Sequence[bytes] = ()) -> None:
        """`needles` maps each needle to its kind.

        A needle is ignored at a place at which one of `exceptions` begins.
        """
        self.exceptions = exceptions
        self.by_head: dict[bytes, list[tuple[bytes, str]]] = defaultdict(list)
        for needle, kind in needles.items():
            self.by_head[needle[:_HEAD]].append((needle, kind))
        self.longest = max(map(len, (*needles, *exceptions)), default=_HEAD)
        self.heads = np.sort(np.frombuffer(b"".join(self.by_head), "<u8"))
        # For each value of two bytes, whether a needle begins with these two bytes
        self.pairs = np.zeros(1 << 16, bool)
        self.pairs[(self.heads & 0xFFFF).astype(np.int64)] = True

    def search(self, data: bytes, is_end: bool = True) -> set[str]:
        """Returns the kinds of the needles that `data` contains. `is_end` is False if more data follows."""
        if len(data) < _HEAD or not self.by_head:
            return set()
        # find all places whose two bytes are the first two bytes of a needle; `pairs` is a table of all pairs of bytes
        array = np.frombuffer(data, np.uint8)
        first = array[: len(array) - _HEAD + 1].astype(np.uint16)
        first |= array[1 : len(array) - _HEAD + 2].astype(np.uint16) << np.uint16(8)
        places = np.flatnonzero(self.pairs[first])
        # keep the places whose eight bytes begin a needle; the eight bytes are compared as one number
        windows = np.lib.stride_tricks.sliding_window_view(array, _HEAD)[places]
        heads = np.ascontiguousarray(windows).view("<u8").ravel()
        kinds = set()
        for place in places[np.isin(heads, self.heads)].tolist():
            for needle, kind in self.by_head[data[place : place + _HEAD]]:
                if data.startswith(needle, place) and not self._is_exception(data, place, is_end):
                    kinds.add(kind)
        return kinds

    def _is_exception(self, data: bytes, place: int, is_end: bool) -> bool:
        """Returns whether one of `exceptions` begins at a place.

        If `data` ends in the middle of an exception and more data follows, the exception counts too.
        """
        rest = data[place : place + self.longest]
        return any(rest.startswith(other) or (not is_end and other.startswith(rest)) for other in self.exceptions)

    def search_file(self, path: Path) -> set[str]:
        """Returns the kinds of the needles that the file contains. A needle may cross the border of two chunks."""
        kinds: set[str] = set()
        with path.open("rb") as file:
            tail, chunk = b"", file.read(_CHUNK)
            while chunk:
                following = file.read(_CHUNK)
                kinds |= self.search(tail + chunk, is_end=not following)
                tail, chunk = (tail + chunk)[-(self.longest - 1) :], following
        return kinds


@dataclass(frozen=True)
class Proof:
    """How much data a search has read, and which traces are left."""

    files: int
    bytes: int
    rows: int  # Number of searched rows of the ledger.
    remains: tuple[str, ...]  # For each trace that is left, a phrase with its kind and its file or table.
    # The files of removed photos that are in the searched folders. The user must delete them.
    own_files: tuple[str, ...]
    store: str | None = None  # The address of the dataset's copy in a store, which was searched. None without a copy.
    store_files: int = 0  # Number of files in the copy. Their names were searched.
    store_texts: int = 0  # Number of text files in the copy. Their bytes were searched.


def search_traces(dataset: Path, traces: Traces, folders: Iterable[Path] = (), skip: Iterable[Path] = ()) -> Proof:
    """Search the dataset's folder and `folders` for `traces`, and return the proof. Files in `skip` are ignored."""
    searcher = _Searcher(traces.make_needles(), [uri.encode() for uri in traces.longer_uris])
    skipped = {path.absolute() for path in skip}
    remains: list[str] = []
    own_files: list[str] = []
    files = size = 0
    for path in _walk_files([dataset, *folders]):
        if path.absolute() in skipped:
            continue
        files, size = files + 1, size + path.stat().st_size
        sha256 = sha256_file(path)
        if sha256 in traces.photos:
            own_files.append(str(path))
            continue
        kinds = searcher.search_file(path) | _search_tables(path, searcher, traces)
        if sha256 in traces.images:
            kinds.add("image")
        remains += [f"{kind} in {path}" for kind in sorted(kinds)]
    rows, ledger_remains = _search_ledger(dataset, traces)
    return Proof(files, size, rows, (*remains, *ledger_remains), tuple(own_files))


def search_store(dataset: Path, traces: Traces, proof: Proof) -> Proof:
    """Search the dataset's copy in a store, and return the proof with the result. Without a copy, returns `proof`.

    Searches the names of all files, and the bytes of all text files. The images are not read: they have the names of
    their faces, and only Likeness writes them. The copy of the ledger is not read either: `copy_to_store` has just
    written it from the local ledger, which `search_traces` has searched. Raises StoreError if the store fails.
    """
    with Ledger.open(dataset, during_purge=True) as ledger:
        store = find_store(ledger)
    if store is None:
        return proof
    searcher = _Searcher(traces.make_needles(), [uri.encode() for uri in traces.longer_uris])
    files = store.list_files()
    texts = [path for path in files if path.name in TEXT_FILES]
    remains = [f"{kind} in {path}" for path in files for kind in sorted(searcher.search(str(path).encode()))]
    remains += [f"{kind} in {path}" for path in texts for kind in sorted(searcher.search(path.read_bytes()))]
    return replace(
        proof,
        remains=(*proof.remains, *remains),
        store=str(store),
        store_files=len(files),
        store_texts=len(texts),
    )


def _walk_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yields each file below `folders` once. Symbolic links are ignored."""
    known: set[str] = set()
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in sorted(names):
                path = Path(place, name)
                real = os.path.realpath(path)
                if path.is_file() and not path.is_symlink() and real not in known:
                    known.add(real)
                    yield path


def _search_tables(path: Path, searcher: _Searcher, traces: Traces) -> set[str]:
    """Returns the kinds of traces in a parquet table, or in a .npy array of pixels (n, height, width, 3)."""
    kinds: set[str] = set()
    try:
        if path.suffix == ".parquet":
            for column in pq.read_table(path).itercolumns():
                for chunk in column.chunks:
                    kinds |= _search_column(chunk, searcher, traces)
        elif path.suffix == ".npy" and traces.pixels:
            array = np.load(path, mmap_mode="r")
            if array.dtype == np.uint8 and array.ndim == 4:
                hashes = {hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest() for row in array}
                kinds |= {"pixels"} if hashes & set(traces.pixels) else set()
    except (OSError, ValueError, EOFError, pa.ArrowException):
        pass  # in spite of its suffix, the file is no table or array; the caller searches its bytes
    return kinds


def _search_column(chunk: pa.Array, searcher: _Searcher, traces: Traces) -> set[str]:
    """Returns the kinds of traces in a chunk of a column. The buffers of a chunk are not compressed."""
    kinds: set[str] = set()
    if pa.types.is_list(chunk.type) and pa.types.is_float64(chunk.type.value_type):
        chunk = chunk.flatten().cast(pa.float32())  # some programs write embeddings as float64
    for buffer in chunk.buffers():
        if buffer is not None:
            kinds |= searcher.search(buffer.to_pybytes())
    if pa.types.is_binary(chunk.type):
        hashes = {hashlib.sha256(value).hexdigest() for value in chunk.to_pylist() if value is not None}
        kinds |= {"image"} if hashes & {*traces.images, *traces.photos} else set()
    return kinds


def _search_ledger(dataset: Path, traces: Traces) -> tuple[int, list[str]]:
    """Returns the number of rows in the ledger, and a phrase for each table that contains a trace."""
    if not (dataset / LEDGER_NAME).is_file():
        return 0, []
    texts = [*traces.photos, *traces.pictures, *traces.faces, *traces.people, *traces.uris]
    with Ledger.open(dataset, during_purge=True) as ledger:
        return count_mentions(ledger, texts)
