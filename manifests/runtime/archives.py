"""Archives among the photos: zip, and tar plain, gz, bz2 or xz. Members are read one by one; nothing is ever unpacked.

A member's name is a label on its row and leads nowhere. What is odd about a member, or about the archive as a whole,
is a reason; whatever else an archive does to the libraries that read it, a worker process stands it (workers.py).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
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

# All ours. A member is held in memory while it is read. What is more than so many members is told by the archive's row.
# Photos hardly shrink when they are packed, so an archive that grows so much is none of photos.
MAX_MEMBER_BYTES = 2**28
MAX_MEMBERS = 250_000
MAX_GROWTH, MAX_GROWTH_FROM = 100, 2**30  # times the archive's own bytes, and bytes beside

_SKIPPED = 2**24  # bytes that are unpacked at a time to get past a member

ARCHIVE, NESTED = "archive", "nested_archive"
TRUNCATED, BROKEN, BOMB, TOO_MANY = "truncated", "broken_archive", "archive_bomb", "too_many_members"

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, ValueError, IndexError, KeyError)
_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
# Windows' devices, whatever their ending
_DEVICE = re.compile(rb"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)", re.IGNORECASE)


class ArchiveError(Exception):
    """A member, or an archive, that cannot be read; `reason` is for its row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Member:
    """The place of a member in an archive, from 0."""

    archive: Path
    index: int


@dataclass(frozen=True)
class Entry:
    """What an archive says of a member: its name of any bytes, its size, and why it is not read where it is not."""

    name: bytes
    size: int
    reason: str | None
    folder: bool = False


def is_archive(head: bytes) -> bool:
    """Whether a file that begins with these 512 bytes is taken for an archive; its name says nothing."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06", *_PACKED)) or head[257:262] == b"ustar"


def count_members(archive: Path) -> tuple[int, str]:
    """How many members are offered, and what the archive's own row says: ARCHIVE, or why there are no more.

    Raises Unreadable for a file that is no archive after all, and OSError where it cannot be opened.
    """
    opened = _open(archive)
    offered = 0
    try:
        for _ in opened.entries():
            if offered == MAX_MEMBERS:
                return offered, TOO_MANY
            offered += 1
    except EOFError:
        return offered, TRUNCATED
    except ArchiveError as error:
        return offered, error.reason
    except _BROKEN as error:
        return offered, TRUNCATED if "unexpected end of data" in str(error) else BROKEN
    return offered, ARCHIVE


def read_entry(member: Member) -> Entry:
    """Raises Unreadable where the archive has no such member any more, and OSError where it cannot be opened."""
    return _guarded(member, lambda opened: opened.entry(member.index))


def read_member(member: Member) -> bytes:
    """The bytes of a member that is no folder. Raises Unreadable with the entry's reason, or that of its data; and
    OSError where the archive cannot be opened."""
    reason = read_entry(member).reason
    if reason is not None:
        raise ArchiveError(reason)
    return _guarded(member, lambda opened: opened.read(member.index))


def read_bytes(uri: str) -> bytes:
    """The bytes that a row's file held, a member of an archive or not. Raises Unreadable and OSError."""
    named = parse_member_uri(uri)
    if named is None:
        return path_of(uri).read_bytes()
    archive, index, name = named
    if read_entry(Member(archive, index)).name != name:
        raise ArchiveError("file_vanished")
    return read_member(Member(archive, index))


def _guarded(member: Member, work: Any) -> Any:
    opened = _open(member.archive)
    try:
        return work(opened)
    except EOFError:
        raise ArchiveError(TRUNCATED) from None
    except NotImplementedError:
        raise ArchiveError("unknown_compression") from None
    except _BROKEN:
        raise ArchiveError("broken_member") from None


# the archive that was read last stays open: one photo after the other is read from it, in the order they lie in
_open_now: dict[tuple[Path, int, int], _Zip | _Tar] = {}


def _open(archive: Path) -> _Zip | _Tar:
    found = archive.stat()
    key = archive, found.st_size, found.st_mtime_ns
    if key not in _open_now:
        close_archive()
        with archive.open("rb") as file:
            head = file.read(2)
        _open_now[key] = _Zip(archive) if head == b"PK" else _Tar(archive, found.st_size)
    return _open_now[key]


def close_archive() -> None:
    """Close what was read last."""
    while _open_now:
        _open_now.popitem()[1].close()


def _unsafe(name: bytes) -> bool:
    """Whether a name would lead out of a folder it was unpacked into, or to a device."""
    parts = re.split(rb"[/\\]", name)
    odd = not name or b"\0" in name or name[:1] in b"/\\" or re.match(rb"[A-Za-z]:", name) is not None
    return odd or b".." in parts or any(_DEVICE.match(part) for part in parts)


def _reason(name: bytes, size: int, seen: set[bytes]) -> str | None:
    """What is wrong with a member by its name and size."""
    if _unsafe(name):
        return "unsafe_name"
    if name in seen:
        return "duplicate_name"
    seen.add(name)
    return "file_too_large" if size > MAX_MEMBER_BYTES else None


class _Zip:
    """A zip file, with its directory in memory."""

    def __init__(self, archive: Path) -> None:
        try:
            self.file = zipfile.ZipFile(archive)
        except (NotImplementedError, UnicodeDecodeError, EOFError, *_BROKEN) as error:
            if isinstance(error, OSError):
                raise
            raise ArchiveError(BROKEN) from None
        self.members = self.file.infolist()
        self.overlapping = self._overlapping()
        self.growth = sum(info.file_size for info in self.members)
        self.most = archive.stat().st_size * MAX_GROWTH + MAX_GROWTH_FROM
        seen: set[bytes] = set()
        self.known = [self._entry(info, seen) for info in self.members]

    def _entry(self, info: zipfile.ZipInfo, seen: set[bytes]) -> Entry:
        # as it stands in the file: ZipInfo.filename ends at a NUL
        name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
        kind = info.external_attr >> 28 if info.create_system == 3 else 8  # the file type of a Unix mode
        reason = _reason(name, info.file_size, seen)
        if kind == 10:
            reason = "link_member"
        elif info.flag_bits & 1:
            reason = "encrypted_member"
        elif info.header_offset in self.overlapping:
            reason = "overlapping_members"
        return Entry(name, info.file_size, reason, folder=reason is None and name.endswith(b"/"))

    def _overlapping(self) -> set[int]:
        """Where members lie that share bytes with another, as those of a bomb do."""
        found: set[int] = set()
        end, last = 0, -1
        for info in sorted(self.members, key=lambda info: info.header_offset):
            if info.header_offset < end:
                found |= {last, info.header_offset}
            # 30 bytes of a local header; its name and extra field come on top
            ends = info.header_offset + 30 + info.compress_size
            if ends >= end:
                end, last = ends, info.header_offset
        return found | ({last} if end > self.file.start_dir else set())

    def close(self) -> None:
        self.file.close()

    def entries(self) -> Iterator[Entry]:
        if self.growth > self.most:
            raise ArchiveError(BOMB)
        yield from self.known

    def entry(self, index: int) -> Entry:
        return self.known[index]

    def read(self, index: int) -> bytes:
        info = self.members[index]
        with self.file.open(info) as file:
            data = file.read(MAX_MEMBER_BYTES + 1)
        if len(data) != info.file_size:
            raise EOFError
        return data


class _Tar:
    """A tar file, read forwards: a member further on is found on the way, an earlier one from the beginning again."""

    def __init__(self, archive: Path, size: int) -> None:
        self.file = archive.open("rb")
        head = self.file.read(512)
        self.unpack = next((unpack for magic, unpack in _PACKED.items() if head.startswith(magic)), None)
        self.most = None if self.unpack is None else size * MAX_GROWTH + MAX_GROWTH_FROM
        self._rewind()

    def close(self) -> None:
        self.file.close()

    def _rewind(self) -> None:
        self.file.seek(0)
        self.bytes = _Unpacked(self.file if self.unpack is None else self.unpack(self.file), self.most)
        self.at, self.seen = -1, set[bytes]()
        forwards: Any = self.bytes  # as much of a file as tarfile needs
        try:
            self.tar = tarfile.TarFile(fileobj=forwards, encoding="utf-8", errors="surrogateescape")
        except (EOFError, *_BROKEN):
            self.close()
            # something else that was packed, or no tar at all
            raise ArchiveError("not_an_image" if self.unpack is not None else BROKEN) from None

    def _next(self) -> Entry | None:
        restart_timer()
        self.info = self.tar.next()
        vars(self.tar)["members"].clear()  # it would remember every one
        if self.info is None:
            if self.bytes.last.strip(b"\0") or len(self.bytes.last) < tarfile.BLOCKSIZE:
                raise EOFError  # an archive ends with a block of zeros
            return None
        self.at += 1
        name, info = self.info.name.encode("utf-8", "surrogateescape"), self.info
        reason = _reason(name, info.size, self.seen) if not info.isdir() else None
        if info.issym() or info.islnk():
            reason = "link_member"
        elif info.isdev():
            reason = "special_file"
        elif info.issparse():
            reason = "sparse_member"
        self.found = Entry(name, info.size, reason, info.isdir())
        return self.found

    def entries(self) -> Iterator[Entry]:
        self._rewind()
        while (found := self._next()) is not None:
            yield found

    def entry(self, index: int) -> Entry:
        if index < self.at:
            self._rewind()
        while self.at < index:
            if self._next() is None:
                raise IndexError(index)
        return self.found

    def read(self, index: int) -> bytes:
        self.entry(index)
        file: IO[bytes] | None = self.tar.extractfile(self.info) if self.info is not None else None
        data = file.read(MAX_MEMBER_BYTES + 1) if file is not None else b""
        if len(data) != self.found.size:
            raise EOFError
        return data


class _Unpacked:
    """A file that is read forwards, which says what was read last. One that was packed ends after `most` bytes."""

    def __init__(self, file: Any, most: int | None) -> None:
        self.file, self.most, self.last = file, most, b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.file.read(size)
        return self.last

    def seek(self, to: int, whence: int = 0) -> int:
        at = self.tell()
        if self.most is None or to <= at:
            return int(self.file.seek(to, whence))
        if to > self.most:
            raise ArchiveError(BOMB)
        while at < to and (data := self.file.read(min(to - at, _SKIPPED))):
            at += len(data)
            restart_timer()
        return at

    def tell(self) -> int:
        return int(self.file.tell())
