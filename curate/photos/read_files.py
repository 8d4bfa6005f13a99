"""Reads, hashes and decodes files in worker processes, and makes the rows of files, photos and archives."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from curate.faces.measure import hash_picture
from curate.photos.history.file_stamps import is_unchanged, stamp_row
from curate.photos.name_rules import NO_RULES, NameRules
from curate.photos.picture_measures import measure_picture
from curate.photos.walk import make_unread_row
from manifests.ledger.records import File, Photo
from manifests.pictures.images import Picture, UndecodableImage, decode_picture
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
from manifests.runtime.uris import member_uri, uri_of
from manifests.runtime.workers import FailedUnit, guard_units, open_pool
from manifests.stores.failures import StoreError
from manifests.stores.store_path import StorePath

# A file with more bytes than MAX_BYTES (ours) is not decoded. If the file is an archive, its members are still read. An
# uncompressed 16-bit RGB TIFF with the largest number of pixels that the decoder accepts has about 1 GiB.
MAX_BYTES = 2**30
# A file of more than _MAX_UNKNOWN_BYTES (ours) in a store may be an archive, so its first _HEAD_BYTES bytes (ours) are
# read before the whole file.
_MAX_UNKNOWN_BYTES, _HEAD_BYTES = 2**26, 512


def read_photo_row(path: Path) -> Photo | None:
    """Returns the row of the photo in a file outside the dataset, or None if the file cannot be decoded.

    The file is read in a worker process.
    """
    with open_pool(1) as map_batches:
        rows = [row for batch in map_batches(scan_batch, [[path]]) for row in batch]
    return next((row for row in rows if isinstance(row, Photo)), None)


def scan_batch(
    items: Sequence[Path | Member | FailedUnit],
    kept_out: KeptOutList = NOBODY_KEPT_OUT,
    rules: NameRules = NO_RULES,
    archive_place: str = "",
) -> list[File | Photo]:
    """Reads, hashes and decodes each file. Returns a File row for each file, and a Photo row for each picture.

    The row of an archive has the reason ARCHIVE, which `count_batch` may replace. A folder in an archive has no row. If
    the sha256 of a file is kept out, the file is not decoded. The row of a kept-out file does not contain its name or
    its hash. `rules` decide which members are read. All members of one call are in one archive. `archive_place` is the
    path of the archive below the folder that the user named.
    """
    rows: list[File | Photo] = []
    for item in guard_units(items):
        if isinstance(item, FailedUnit):
            rows.append(_make_lost_row(item))
        elif isinstance(item, Member):
            rows += _scan_member(item, kept_out, rules, archive_place)
        else:
            rows += _scan_file(item, kept_out)
    return rows


def _scan_file(path: Path, kept_out: KeptOutList) -> list[File | Photo]:
    if isinstance(path, StorePath):
        return _scan_stored_file(path, kept_out)
    uri = uri_of(path)
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            row = stamp_row(File(uri, None, None, None, "failed"), before)
            is_packed = is_archive(file.read(512))
            if before.st_size > MAX_BYTES:
                reason = ARCHIVE if is_packed else "file_too_large"
                return [replace(row, status="dropped" if is_packed else "failed", reason=reason)]
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if (reason_kept_out := kept_out.reason_for(sha256)) is not None:
                return [_make_hidden_row(uri, kept_out, reason_kept_out)]
            file.seek(0)
            try:
                picture = decode_picture(file, identify=True)
            except UndecodableImage as error:
                if error.reason == "not_an_image" and is_packed:
                    return [replace(row, status="dropped", reason=ARCHIVE)]
                return [replace(row, reason=error.reason)]
            after = os.fstat(file.fileno())
        if not is_unchanged(row, after):
            raise OSError  # the file changed, so the decoded bytes may differ from the hashed bytes
    except OSError:
        return [make_unread_row(path, "failed", "unreadable_file" if os.path.lexists(path) else "file_vanished")]
    return _make_photo_rows(row, sha256, picture, kept_out)


def _scan_stored_file(path: StorePath, kept_out: KeptOutList) -> list[File | Photo]:
    """Does for a file in a store what `_scan_file` does for a local file. The whole file is read with one request."""
    uri = uri_of(path)
    try:
        row = stamp_row(File(uri, None, None, None, "failed"), path.stat())
        size = row.bytes or 0
        data = path.read_head(_HEAD_BYTES) if size > _MAX_UNKNOWN_BYTES else path.read_bytes()
        is_packed = is_archive(data[:_HEAD_BYTES])
        if size > MAX_BYTES or (is_packed and size > _MAX_UNKNOWN_BYTES):
            reason = ARCHIVE if is_packed else "file_too_large"
            return [replace(row, status="dropped" if is_packed else "failed", reason=reason)]
        if size > _MAX_UNKNOWN_BYTES:
            data = path.read_bytes()
        sha256 = sha256_bytes(data)
        if (reason_kept_out := kept_out.reason_for(sha256)) is not None:
            return [_make_hidden_row(uri, kept_out, reason_kept_out)]
        picture = decode_picture(data, identify=True)
        path.check_unchanged()
    except UndecodableImage as error:
        if error.reason == "not_an_image" and is_packed:
            return [replace(row, status="dropped", reason=ARCHIVE)]
        return [replace(row, reason=error.reason)]
    except StoreError as error:
        return [make_unread_row(path, "failed", error.reason)]
    return _make_photo_rows(row, sha256, picture, kept_out)


def _scan_member(member: Member, kept_out: KeptOutList, rules: NameRules, archive_place: str) -> list[File | Photo]:
    try:
        status = member.archive.stat()
        header = read_entry(member)
    except (ArchiveError, OSError) as error:
        reason = error.reason if isinstance(error, (ArchiveError, StoreError)) else "unreadable_file"
        return [File(member_uri(member.archive, member.index, b""), None, None, None, "failed", reason)]
    if header.folder:
        return []
    uri = member_uri(member.archive, member.index, header.name)
    row = replace(stamp_row(File(uri, None, None, None, "failed"), status), bytes=header.size)
    place = f"{archive_place}/{os.fsdecode(header.name.lstrip(b'/'))}"
    if (left_out := rules.find_reason(place, is_file=True)) is not None:
        return [replace(row, status="dropped", reason=left_out)]
    try:
        data = read_member(member)
        sha256 = sha256_bytes(data)
        if (reason_kept_out := kept_out.reason_for(sha256)) is not None:
            return [_make_hidden_row(row.uri, kept_out, reason_kept_out)]
        picture = decode_picture(data, identify=True)
    except OSError:
        return [replace(row, reason="unreadable_file")]
    except ArchiveError as error:
        return [replace(row, reason=error.reason)]
    except UndecodableImage as error:
        is_nested = error.reason == "not_an_image" and is_archive(data[:512])
        return [replace(row, reason=NESTED if is_nested else error.reason)]
    return _make_photo_rows(row, sha256, picture, kept_out)


def _make_photo_rows(file: File, sha256: str, picture: Picture, kept_out: KeptOutList) -> list[File | Photo]:
    """Returns the rows of a file and its photo. If the photo is a copy of a kept-out photo, the file's name is hidden.

    `identify` may replace the id of the photo, which is the sha256 of the file.
    """
    height, width = picture.rgb.shape[:2]
    assert picture.stored is not None and picture.date is not None
    samples, orientation = picture.stored.sha256, picture.stored.orientation
    phash, phash256 = hash_picture(picture.rgb)
    photo = Photo(
        sha256,
        width,
        height,
        phash=phash,
        notice=picture.notice,
        phash256=phash256,
        samples=samples,
        orientation=orientation,
        decoder=picture.stored.decoder,
        **measure_picture(picture),
    )
    if (reason := kept_out.find_reason(photo, file.uri)) is not None:
        return [_make_hidden_row(file.uri, kept_out, reason)]
    file = replace(file, photo_id=sha256, status="ok", sha256=sha256, samples=samples, orientation=orientation)
    return [replace(file, **asdict(picture.date)), photo]


def _make_hidden_row(uri: str, kept_out: KeptOutList, reason: str) -> File:
    return File(hide_uri(kept_out.key, uri), None, None, None, "dropped", reason)


def _make_lost_row(lost: FailedUnit) -> File:
    """Returns the row of a file that no worker process could read.

    The row keeps the file's size and modification time, so the file is not read again until the file changes.
    """
    if isinstance(lost.unit, Member):
        path, uri = (
            lost.unit.archive,
            member_uri(lost.unit.archive, lost.unit.index, b""),
        )  # the member's name is unknown
    else:
        path, uri = lost.unit, uri_of(lost.unit)
    try:
        status = path.stat()
    except OSError:
        return File(uri, None, None, None, "failed", lost.reason)
    return stamp_row(File(uri, None, None, None, "failed", lost.reason), status)


def count_batch(archives: Sequence[Path | FailedUnit]) -> list[tuple[File, int]]:
    """Returns the row of each archive and the number of its members."""
    rows: list[tuple[File, int]] = []
    for archive in guard_units(archives):
        if isinstance(archive, FailedUnit):
            rows.append((_make_lost_row(archive), 0))
            continue
        try:
            status_of_file = archive.stat()
            members, reason = count_members(archive)
        except ArchiveError as error:
            members, reason = 0, error.reason
        except OSError as error:
            reason = error.reason if isinstance(error, StoreError) else "unreadable_file"
            rows.append((make_unread_row(archive, "failed", reason), 0))
            continue
        status = "dropped" if reason == ARCHIVE else "failed"
        row = stamp_row(File(uri_of(archive), None, None, None, status, reason), status_of_file)
        rows.append((row, members))
    return rows
