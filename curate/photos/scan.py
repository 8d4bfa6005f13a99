"""Files offered, and members of archives -> one row each, and one row per distinct photo."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from curate.faces.measure import hash_picture
from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import Face, File, Photo
from manifests.privacy.kept_out import NOBODY_KEPT_OUT, KeptOutList
from manifests.privacy.keys import hide_uri
from manifests.runtime.archives import (
    ARCHIVE,
    NESTED,
    ArchiveError,
    Member,
    count_members,
    is_archive,
    read_entry,
    read_member,
)
from manifests.runtime.files import sha256_bytes
from manifests.runtime.images import Picture, UndecodableImage, decode_picture
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, is_missing, member_uri, uri_of
from manifests.runtime.workers import FailedUnit, guard_units

# 1 GiB: a 16-bit RGB TIFF of the most pixels that are decoded, uncompressed (ours); of larger files no picture is read
MAX_BYTES = 2**30
FILE_REPLACED = "file_replaced"
# what keeps a file from being read; what it held may still be there
_UNREAD = ("unreadable_file", "broken_symlink", "file_vanished")
LEAVES = "symlink_leaves_folder"
_UNWALKABLE = {errno.ELOOP: "symlink_loop", errno.ENOENT: "broken_symlink", errno.ENOTDIR: "broken_symlink"}


def check_offered(paths: Sequence[Path]) -> None:
    """Raise BadInput for a path that does not exist and for one that is a dataset itself."""
    for path in paths:
        if not os.path.lexists(path):
            raise BadInput(f"{make_printable(path)} does not exist: name a photo or a folder of photos.")
        if os.path.lexists(path / LEDGER_NAME):
            raise BadInput(f"{make_printable(path)} is a dataset already: name the folder that holds the photos.")


def offered(paths: Sequence[Path], walked_into: set[str] | None = None) -> Iterator[Path | File]:
    """Every file under the paths, sorted by name at each level, each real folder walked once.

    A symlink inside is followed where it leads to something under one of the paths; a path itself may be one. Yields a
    path to be scanned, or the finished row of what is not walked: an unreadable folder, a symlink that leads back into
    a folder already walked or out of all paths, a folder that is itself a dataset, a special file. The uris of
    the folders walked are added to `walked_into`. Raises BadInput as `check_offered`.
    """
    check_offered(paths)
    walked: set[tuple[int, int]] = set()
    roots: list[str] = []  # read once a symlink is met: lists name a million paths
    # a stack of our own: folders may nest deeper than Python calls
    waiting = [(Path(path), True) for path in reversed(paths)]
    while waiting:
        path, named = waiting.pop()
        try:
            found = path.stat()
        except OSError as error:
            yield _turned_away(path, "failed", _UNWALKABLE.get(error.errno or 0, "unreadable_file"))
            continue
        here = (found.st_dev, found.st_ino)
        if linked := not named and path.is_symlink():
            roots = roots or [os.path.realpath(path) for path in paths]
        if linked and not _under(os.path.realpath(path), roots):
            yield _turned_away(path, "dropped", LEAVES)
        elif stat.S_ISREG(found.st_mode):
            yield path
        elif not stat.S_ISDIR(found.st_mode):
            yield _turned_away(path, "failed", "special_file")
        elif here in walked:
            yield _turned_away(path, "dropped", "folder_already_walked")
        else:
            walked.add(here)
            try:
                inside = sorted(path.iterdir())
            except OSError:
                yield _turned_away(path, "failed", "unreadable_folder")
                continue
            if any(child.name == LEDGER_NAME for child in inside):
                yield _turned_away(path, "dropped", "dataset_folder")
            else:
                waiting.extend((child, False) for child in reversed(inside))
                if walked_into is not None:
                    walked_into.add(uri_of(path))


def _under(real: str, roots: Sequence[str]) -> bool:
    return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


def scan_batch(
    items: Sequence[Path | Member | FailedUnit], kept_out: KeptOutList = NOBODY_KEPT_OUT
) -> list[File | Photo]:
    """Read, hash and decode each file: a File row for every one, a Photo row for every decodable picture.

    An archive's row says ARCHIVE, which `count_batch` may have to correct. A folder in an archive has no row. What is
    kept out is not decoded, and its row holds neither its name nor its hash.
    """
    rows: list[File | Photo] = []
    for item in guard_units(items):
        if isinstance(item, FailedUnit):
            rows.append(_lost(item))
        else:
            rows += _scan_member(item, kept_out) if isinstance(item, Member) else _scan_file(item, kept_out)
    return rows


def _scan_file(path: Path, kept_out: KeptOutList) -> list[File | Photo]:
    uri = uri_of(path)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            row = File(uri, None, found.st_size, found.st_mtime_ns, "failed")
            packed = is_archive(file.read(512))
            if found.st_size > MAX_BYTES:
                reason = ARCHIVE if packed else "file_too_large"
                return [replace(row, status="dropped" if packed else "failed", reason=reason)]
            file.seek(0)
            photo_id = hashlib.file_digest(file, "sha256").hexdigest()
            if (why := kept_out.reason_for(photo_id)) is not None:
                return [_hidden(uri, kept_out, why)]
            file.seek(0)
            try:
                picture = decode_picture(file)
            except UndecodableImage as error:
                if error.reason == "not_an_image" and packed:
                    return [replace(row, status="dropped", reason=ARCHIVE)]
                return [replace(row, reason=error.reason)]
            after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise OSError  # what was hashed may not be what was decoded
    except OSError:
        return [_turned_away(path, "failed", "unreadable_file" if os.path.lexists(path) else "file_vanished")]
    photo = _make_photo(photo_id, picture)
    return [replace(row, photo_id=photo_id, status="ok"), photo]


def _scan_member(member: Member, kept_out: KeptOutList) -> list[File | Photo]:
    try:
        mtime_ns = member.archive.stat().st_mtime_ns
        said = read_entry(member)
    except (ArchiveError, OSError) as error:
        reason = error.reason if isinstance(error, ArchiveError) else "unreadable_file"
        return [File(member_uri(member.archive, member.index, b""), None, None, None, "failed", reason)]
    if said.folder:
        return []
    row = File(member_uri(member.archive, member.index, said.name), None, said.size, mtime_ns, "failed")
    try:
        data = read_member(member)
        photo_id = sha256_bytes(data)
        if (why := kept_out.reason_for(photo_id)) is not None:
            return [_hidden(row.uri, kept_out, why)]
        picture = decode_picture(data)
    except OSError:
        return [replace(row, reason="unreadable_file")]
    except ArchiveError as error:
        return [replace(row, reason=error.reason)]
    except UndecodableImage as error:
        nested = error.reason == "not_an_image" and is_archive(data[:512])
        return [replace(row, reason=NESTED if nested else error.reason)]
    photo = _make_photo(photo_id, picture)
    return [replace(row, photo_id=photo_id, status="ok"), photo]


def _make_photo(photo_id: str, picture: Picture) -> Photo:
    height, width = picture.rgb.shape[:2]
    return Photo(photo_id, width, height, hash_picture(picture.rgb), notice=picture.notice)


def _hidden(uri: str, kept_out: KeptOutList, reason: str) -> File:
    return File(hide_uri(kept_out.key, uri), None, None, None, "dropped", reason)


def count_batch(archives: Sequence[Path | FailedUnit]) -> list[tuple[File, int]]:
    """The row of each archive, and how many members of it are offered."""
    counted: list[tuple[File, int]] = []
    for archive in guard_units(archives):
        if isinstance(archive, FailedUnit):
            counted.append((_lost(archive), 0))
            continue
        try:
            found = archive.stat()
            members, reason = count_members(archive)
        except ArchiveError as error:
            members, reason = 0, error.reason
        except OSError:
            counted.append((_turned_away(archive, "failed", "unreadable_file"), 0))
            continue
        status = "dropped" if reason == ARCHIVE else "failed"
        counted.append((File(uri_of(archive), None, found.st_size, found.st_mtime_ns, status, reason), members))
    return counted


def uri_of_item(item: Path | Member) -> str:
    """The uri of a file; of a member, one without its name, which only the archive knows."""
    return member_uri(item.archive, item.index, b"") if isinstance(item, Member) else uri_of(item)


def _lost(lost: FailedUnit) -> File:
    """The row of a file that no process came through. Its size and time make sure that it is not read again."""
    try:
        path = lost.unit.archive if isinstance(lost.unit, Member) else lost.unit
        found = path.stat()
    except OSError:
        return File(uri_of_item(lost.unit), None, None, None, "failed", lost.reason)
    return File(uri_of_item(lost.unit), None, found.st_size, found.st_mtime_ns, "failed", lost.reason)


def mark_same_files(files: Sequence[File]) -> list[File]:
    """The rows that change when each photo keeps one file: the first uri is ok, the others are the same file again."""
    by_photo: dict[str, list[File]] = defaultdict(list)
    for file in files:
        if file.photo_id is not None and file.reason not in _UNREAD:
            by_photo[file.photo_id].append(file)
    changed = []
    for same in by_photo.values():
        first, *others = sorted(same, key=lambda file: file.uri)
        wanted = [replace(first, status="ok", reason=None)]
        wanted += [replace(other, status="dropped", reason="same_file") for other in others]
        changed += [row for row in wanted if row not in same]
    return changed


def still_holding(row: File, before: File | None) -> File:
    """The row; one of a file that cannot be read now goes on naming the photo that the file held."""
    return replace(row, photo_id=before.photo_id) if before is not None and row.reason in _UNREAD else row


def still_hidden(row: File, key: bytes, hidden: Collection[str]) -> bool:
    """Whether the row is of a file that was kept out when it was read last and in which no photo can be read now: then
    its name may not come back. `hidden` holds the uris of such files."""
    return row.photo_id is None and bool(hidden) and hide_uri(key, row.uri) in hidden


def mark_replaced(
    files: Sequence[File], photos: Sequence[Photo], faces: Sequence[Face]
) -> tuple[list[Photo | Face], list[Photo]]:
    """Photos that no file holds any more with their faces, as dropped rows; and such photos that are held again."""
    held = {file.photo_id for file in files}
    rows: list[Photo | Face] = []
    for photo in photos:
        if photo.photo_id not in held and photo.reason != FILE_REPLACED:
            rows.append(replace(photo, status="dropped", reason=FILE_REPLACED))
    for face in faces:
        if face.photo_id not in held and face.reason != FILE_REPLACED:
            rows.append(replace(face, status="dropped", reason=FILE_REPLACED, duplicate_of=None))
    back = [p for p in photos if p.reason == FILE_REPLACED and p.photo_id in held]
    return rows, [replace(photo, status="ok", reason=None) for photo in back]


def told_gone(rows: Sequence[File]) -> list[str]:
    """What is to be told of rows whose files were not offered now and are no longer where they were."""
    gone = [row for row in rows if row.photo_id is not None and row.reason not in _UNREAD and is_missing(row.uri)]
    if not gone:
        return []
    held = f"{len(gone)} file{'s that held photos are' if len(gone) > 1 else ' that held a photo is'} no longer there"
    first = make_printable(display_path(min(row.uri for row in gone)))
    return [f"{held}, {first}{' for one' if len(gone) > 1 else ''}; photos, faces and crops stay in the dataset."]


def _turned_away(path: Path, status: str, reason: str) -> File:
    return File(uri_of(path), None, None, None, status, reason)
