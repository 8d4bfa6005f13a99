"""Reads photos from archives in the formats zip and tar. A tar file may be compressed with gzip, bzip2 or xz.

Members are read into memory one by one, and no archive is unpacked to disk. No path is made from the name of a member.
The ledger has a row for each archive and for each member. If there is a problem with an archive or a member, its row
has the reason. Archives are read in worker processes (workers.py), so an archive that crashes a library ends only a
worker process.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from manifests.runtime.uris import parse_member_uri, path_of
from manifests.runtime.workers import restart_timer
from manifests.stores.store_path import StorePath

# We chose these four limits. Members are read into memory. Compression hardly makes a photo smaller, so the members of
# an archive may together have at most MAX_GROWTH times the bytes of the archive, plus MAX_GROWTH_BYTES.
MAX_MEMBER_BYTES = 2**28
MAX_MEMBERS = 250_000  # Further members are not read, and the reason of the archive is TOO_MANY.
MAX_GROWTH = 100
MAX_GROWTH_BYTES = 2**30

_SKIP_BYTES = 2**24  # A skip in a compressed file decompresses this many bytes at a time.

ARCHIVE, NESTED = "archive", "nested_archive"
TRUNCATED, BROKEN, BOMB, TOO_MANY = "truncated", "broken_archive", "archive_bomb", "too_many_members"

_READ_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    ValueError,
    IndexError,
    KeyError,
)
_DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
# matches the names of Windows devices, with or without an extension
_DEVICE = re.compile(rb"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)", re.IGNORECASE)


class ArchiveError(Exception):
    """A member or an archive cannot be read. The row of the member or archive gets the reason `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Member:
    """A member of an archive. `index` is the number of the member in the archive, counted from 0."""

    archive: Path
    index: int


@dataclass(frozen=True)
class Entry:
    """The name, size and type of a member, as the archive states them."""

    name: bytes  # The name may contain any bytes.
    size: int  # The size in bytes.
    reason: str | None  # The reason why the member is not read, or None if the member is read.
    folder: bool = False


def is_archive(head: bytes) -> bool:
    """Returns whether a file counts as an archive. `head` are the first 512 bytes of the file."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06", *_DECOMPRESSORS)) or head[257:262] == b"ustar"


def count_members(archive: Path) -> tuple[int, str]:
    """Returns the number of members of an archive, and the reason for the row of the archive.

    The reason is ARCHIVE if all members were counted. Otherwise, the reason says why the count stopped. Raises
    ArchiveError if the file is not an archive. Raises OSError if the file cannot be opened.
    """
    file = _open(archive)
    members = 0
    try:
        for _ in file.entries():
            if members == MAX_MEMBERS:
                return members, TOO_MANY
            members += 1
    except EOFError:
        return members, TRUNCATED
    except ArchiveError as error:
        return members, error.reason
    except _READ_ERRORS as error:
        return members, TRUNCATED if "unexpected end of data" in str(error) else BROKEN
    return members, ARCHIVE


def read_names(archive: Path) -> list[bytes]:
    """Returns the names of an archive's members.

    If the archive is damaged, the names before the damage are returned. If the file is not an archive, returns [].
    """
    names: list[bytes] = []
    with contextlib.suppress(EOFError, ArchiveError, *_READ_ERRORS):
        for entry in itertools.islice(_open(archive).entries(), MAX_MEMBERS):
            names.append(entry.name)
    return names


def read_entry(member: Member) -> Entry:
    """Returns the name, size and type of a member.

    Raises ArchiveError if the archive no longer contains the member. Raises OSError if the archive cannot be opened.
    """
    return _translate_errors(member, lambda file: file.entry(member.index))


def read_member(member: Member) -> bytes:
    """Returns the bytes of a member. The member must not be a folder.

    Raises ArchiveError if the member must not be read, or if its data is damaged. Raises OSError if the archive cannot
    be opened.
    """
    reason = read_entry(member).reason
    if reason is not None:
        raise ArchiveError(reason)
    return _translate_errors(member, lambda file: file.read(member.index))


def read_bytes(uri: str) -> bytes:
    """Returns the bytes of the file or member with this URI.

    Raises ArchiveError if the member cannot be read, or if the member with this number now has another name.
    Raises OSError if the file cannot be read.
    """
    member = parse_member_uri(uri)
    if member is None:
        return path_of(uri).read_bytes()
    archive, index, name = member
    if read_entry(Member(archive, index)).name != name:
        raise ArchiveError("file_vanished")
    return read_member(Member(archive, index))


def _translate_errors(member: Member, work: Callable[[Any], Any]) -> Any:
    """Returns `work(archive)` for the archive of a member. Errors of libraries become an ArchiveError."""
    file = _open(member.archive)
    try:
        return work(file)
    except EOFError:
        raise ArchiveError(TRUNCATED) from None
    except NotImplementedError:
        raise ArchiveError("unknown_compression") from None
    except _READ_ERRORS:
        raise ArchiveError("broken_member") from None


# The archive that was read last stays open, because the next read is usually in the same archive. The dict has at most
# one item. It maps (path, size, mtime, ctime) to the open archive.
_open_archive: dict[tuple[Path, int, int, int], _Zip | _Tar] = {}


def _open(archive: Path) -> _Zip | _Tar:
    if isinstance(archive, StorePath) and archive.facts is None:
        # This path comes from the ledger. The hash of the photo will show whether the archive in the store has changed.
        for (path, *_), open_archive in _open_archive.items():
            if path == archive:
                return open_archive
    status = archive.stat()
    key = archive, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    if key not in _open_archive:
        close_archive()
        file = _open_file(archive)
        head = file.read(2)
        file.seek(0)
        _open_archive[key] = (_Zip if head == b"PK" else _Tar)(file)
    return _open_archive[key]


def _open_file(archive: Path) -> IO[bytes]:
    """Returns an open archive. An archive in a store is copied to the local disk first."""
    if not isinstance(archive, StorePath):
        return archive.open("rb")
    from manifests.stores.archive_copies import open_copy

    return open_copy(archive, restart_timer)


def close_archive() -> None:
    """Close the archive that was read last."""
    while _open_archive:
        _open_archive.popitem()[1].close()


def _is_unsafe(name: bytes) -> bool:
    """Returns whether a program that unpacks a member with this name could write outside its folder, or to a device."""
    parts = re.split(rb"[/\\]", name)
    odd = not name or b"\0" in name or name[:1] in b"/\\" or re.match(rb"[A-Za-z]:", name) is not None
    return odd or b".." in parts or any(_DEVICE.match(part) for part in parts)


def _check_name(name: bytes, size: int, names: set[bytes]) -> str | None:
    """Returns the problem with the name or the size of a member, or None.

    Adds the name to `names`, which has the names of the earlier members.
    """
    if _is_unsafe(name):
        return "unsafe_name"
    if name in names:
        return "duplicate_name"
    names.add(name)
    return "file_too_large" if size > MAX_MEMBER_BYTES else None


class _Zip:
    """An open zip file. The list of its members is in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        try:
            self.file = zipfile.ZipFile(file)
        except (NotImplementedError, UnicodeDecodeError, EOFError, *_READ_ERRORS) as error:
            file.close()
            if isinstance(error, OSError):
                raise
            raise ArchiveError(BROKEN) from None
        self.members = self.file.infolist()
        self.overlaps = self._find_overlaps()
        self.total = sum(info.file_size for info in self.members)
        self.limit = size * MAX_GROWTH + MAX_GROWTH_BYTES
        names: set[bytes] = set()
        self.entry_list = [self._make_entry(info, names) for info in self.members]

    def _make_entry(self, info: zipfile.ZipInfo, names: set[bytes]) -> Entry:
        # orig_filename is the whole name of the member, but ZipInfo.filename ends before the first NUL
        name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
        kind = info.external_attr >> 28 if info.create_system == 3 else 8  # 8 is a file, and 10 is a symbolic link
        reason = _check_name(name, info.file_size, names)
        if kind == 10:
            reason = "link_member"
        elif info.flag_bits & 1:
            reason = "encrypted_member"
        elif info.header_offset in self.overlaps:
            reason = "overlapping_members"
        return Entry(name, info.file_size, reason, folder=reason is None and name.endswith(b"/"))

    def _find_overlaps(self) -> set[int]:
        """Returns the offsets of the members that share bytes with another member, as the members of a zip bomb do."""
        overlaps: set[int] = set()
        end, last = 0, -1
        for info in sorted(self.members, key=lambda info: info.header_offset):
            if info.header_offset < end:
                overlaps |= {last, info.header_offset}
            # the member ends here or later, because its header has at least 30 bytes
            ends = info.header_offset + 30 + info.compress_size
            if ends >= end:
                end, last = ends, info.header_offset
        return overlaps | ({last} if end > self.file.start_dir else set())

    def close(self) -> None:
        file = self.file.fp
        self.file.close()
        if file is not None:
            file.close()

    def entries(self) -> Iterator[Entry]:
        if self.total > self.limit:
            raise ArchiveError(BOMB)
        yield from self.entry_list

    def entry(self, index: int) -> Entry:
        return self.entry_list[index]

    def read(self, index: int) -> bytes:
        info = self.members[index]
        with self.file.open(info) as file:
            data = file.read(MAX_MEMBER_BYTES + 1)
        if len(data) != info.file_size:
            raise EOFError
        return data


class _Tar:
    """An open tar file, which is only read forwards. For an earlier member, the file is read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, size = file, os.fstat(file.fileno()).st_size
        head = self.file.read(512)
        self.decompress = next(
            (decompress for magic, decompress in _DECOMPRESSORS.items() if head.startswith(magic)), None
        )
        self.limit = None if self.decompress is None else size * MAX_GROWTH + MAX_GROWTH_BYTES
        self._rewind()

    def close(self) -> None:
        self.file.close()

    def _rewind(self) -> None:
        self.file.seek(0)
        self.bytes = _ForwardFile(self.file if self.decompress is None else self.decompress(self.file), self.limit)
        self.at, self.names = -1, set[bytes]()
        fileobj: Any = self.bytes  # tarfile calls only the methods that a _ForwardFile has
        try:
            self.tar = tarfile.TarFile(fileobj=fileobj, encoding="utf-8", errors="surrogateescape")
        except (EOFError, *_READ_ERRORS):
            self.close()
            # a compressed file that does not contain a tar archive may be any kind of file
            raise ArchiveError("not_an_image" if self.decompress is not None else BROKEN) from None

    def _next(self) -> Entry | None:
        restart_timer()
        self.info = self.tar.next()
        vars(self.tar)["members"].clear()  # otherwise, tarfile would hold all members in memory
        if self.info is None:
            if self.bytes.last.strip(b"\0") or len(self.bytes.last) < tarfile.BLOCKSIZE:
                raise EOFError  # a complete tar archive ends with a block of zeros
            return None
        self.at += 1
        name, info = self.info.name.encode("utf-8", "surrogateescape"), self.info
        reason = _check_name(name, info.size, self.names) if not info.isdir() else None
        if info.issym() or info.islnk():
            reason = "link_member"
        elif info.isdev():
            reason = "special_file"
        elif info.issparse():
            reason = "sparse_member"
        self.current = Entry(name, info.size, reason, info.isdir())
        return self.current

    def entries(self) -> Iterator[Entry]:
        self._rewind()
        while (entry := self._next()) is not None:
            yield entry

    def entry(self, index: int) -> Entry:
        if index < self.at:
            self._rewind()
        while self.at < index:
            if self._next() is None:
                raise IndexError(index)
        return self.current

    def read(self, index: int) -> bytes:
        self.entry(index)
        file: IO[bytes] | None = self.tar.extractfile(self.info) if self.info is not None else None
        data = file.read(MAX_MEMBER_BYTES + 1) if file is not None else b""
        if len(data) != self.current.size:
            raise EOFError
        return data


class _ForwardFile:
    """A file that is only read forwards. `last` has the bytes of the last read.

    Only a compressed file has a `limit` in bytes. A skip to a place after the limit raises ArchiveError.
    """

    def __init__(self, file: Any, limit: int | None) -> None:
        self.file, self.limit, self.last = file, limit, b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.file.read(size)
        return self.last

    def seek(self, to: int, whence: int = 0) -> int:
        at = self.tell()
        if self.limit is None or to <= at:
            return int(self.file.seek(to, whence))
        if to > self.limit:
            raise ArchiveError(BOMB)
        while at < to and (data := self.file.read(min(to - at, _SKIP_BYTES))):
            at += len(data)
            restart_timer()
        return at

    def tell(self) -> int:
        return int(self.file.tell())
