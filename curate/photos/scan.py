"""The stage `scan` reads every file and every member of an archive, and records a row for each distinct photo."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from curate.faces.measure import hash_picture
from curate.photos.batches import FILES_A_BATCH, split_into_batches
from curate.photos.file_history import (
    describe_missing_files,
    find_missing,
    keep_photo_id,
    mark_left_out,
    mark_replaced,
    mark_same_files,
    must_stay_hidden,
)
from curate.photos.file_stamps import is_unchanged, stamp_row
from curate.photos.name_rules import EXCLUDED, LEFT_OUT, NO_RULES, NameRules, describe_unused_patterns, find_place
from curate.photos.picture_measures import measure_picture
from curate.photos.walk import make_unread_row, walk_files
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import TABLES, Face, File, Photo, Record
from manifests.pictures.images import Picture, UndecodableImage, decode_picture
from manifests.privacy.kept_out import NOBODY_KEPT_OUT, KeptOutList, read_kept_out_list
from manifests.privacy.keys import HIDDEN_PREFIX, hide_uri
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
from manifests.runtime.progress import Progress
from manifests.runtime.uris import display_path, member_uri, parse_member_uri, path_of, uri_of
from manifests.runtime.workers import FAILURES, BatchMap, FailedUnit, guard_units

# A file with more bytes than MAX_BYTES is not read (ours). An uncompressed 16-bit RGB TIFF has about 1 GiB if it has
# the greatest number of pixels that the decoder accepts.
MAX_BYTES = 2**30


@dataclass(frozen=True)
class _Earlier:
    """The rows of earlier scans."""

    files: dict[str, File]  # by uri
    photo_ids: set[str]
    members_of: dict[str, list[str]]  # uri of an archive -> uris of its members
    kept_out: KeptOutList
    hidden: set[str]  # uris of files that are kept out, with an HMAC in the place of the name


@dataclass(frozen=True)
class _Names:
    """The rules about names, and the paths that the user named."""

    rules: NameRules
    named: frozenset[str]

    def find_place(self, uri: str) -> str:
        return find_place(display_path(uri), self.named)

    def find_reason(self, uri: str) -> str | None:
        return self.rules.find_reason(self.find_place(uri), is_file=True)


def scan(
    ledger: Ledger,
    paths: Sequence[Path],
    map_batches: BatchMap,
    progress: Progress,
    rules: NameRules = NO_RULES,
    reread: bool = False,
) -> list[str]:
    """Records a row for every file under `paths`, for every member of an archive, and for every distinct photo.

    A file is not read again if its size and its times are the same as in its row, except with `reread`. The row of an
    archive is recorded after the rows of all its members. An archive whose scan was interrupted is therefore read
    again. `rules` leave out files and members by their names. Returns notices about files of earlier scans that no
    longer exist, and about patterns of `rules` without a file.
    """
    earlier = _read_earlier(ledger)
    names = _Names(rules, frozenset(map(str, paths)))
    changed_files, uris = _find_changed_files(ledger, paths, earlier, names, reread)
    archives = _scan_files(ledger, changed_files, earlier, map_batches, progress)
    _scan_archives(ledger, archives, earlier, names, map_batches, progress)
    files = ledger.read_rows(File)
    missing = find_missing([file for file in files if file.uri not in uris])
    if same_files := mark_same_files(files, missing):
        ledger.record("scan", "same files", {}, same_files)
    dropped_rows, photos_back = mark_replaced(ledger.read_rows(File), ledger.read_rows(Photo), ledger.read_rows(Face))
    if dropped_rows or photos_back:
        # A photo that came back loses its row in `stages`, so the stage `detect` searches the photo again.
        deletions = [("stages", "unit", [photo.photo_id for photo in photos_back])]
        ledger.record("scan", "replaced files", {}, [*dropped_rows, *photos_back], delete=deletions)
    files = ledger.read_rows(File)
    places = [names.find_place(file.uri) for file in files if file.reason == EXCLUDED]
    return describe_missing_files(files, earlier.files) + describe_unused_patterns(rules, places)


def _read_earlier(ledger: Ledger) -> _Earlier:
    files = {file.uri: file for file in ledger.read_rows(File)}
    members_of: dict[str, list[str]] = defaultdict(list)
    for uri in files:
        if not uri.startswith(HIDDEN_PREFIX) and parse_member_uri(uri) is not None:
            members_of[uri.partition("#")[0]].append(uri)
    photo_ids = {photo.photo_id for photo in ledger.read_rows(Photo)}
    hidden = {uri for uri in files if uri.startswith(HIDDEN_PREFIX)}
    return _Earlier(files, photo_ids, members_of, read_kept_out_list(ledger), hidden)


def _find_changed_files(
    ledger: Ledger, paths: Sequence[Path], earlier: _Earlier, names: _Names, reread: bool
) -> tuple[list[Path], set[str]]:
    """Returns the files that are new or have changed, and the uris of everything under `paths`.

    Records the rows of paths that are not read, for example broken symlinks and folders that are left out.
    """
    uris: set[str] = set()
    changed_files: dict[str, Path] = {}
    unread_rows: dict[str, File] = {}
    folder_uris: set[str] = set()
    for item in walk_files(paths, folder_uris, names.rules):
        if isinstance(item, File):
            if not must_stay_hidden(item, earlier.kept_out.key, earlier.hidden):
                unread_rows[item.uri] = keep_photo_id(item, earlier.files.get(item.uri))
            continue
        uri = uri_of(item)
        uris.add(uri)
        if reread or not _is_unchanged(item, earlier.files.get(uri)) or _has_other_members(uri, earlier, names):
            changed_files[uri] = item
    left_out = {uri: row.reason for uri, row in unread_rows.items() if row.reason in LEFT_OUT}
    unread_rows |= {row.uri: row for row in mark_left_out(earlier.files.values(), left_out)}
    new_rows = [row for uri, row in unread_rows.items() if earlier.files.get(uri) != row]
    # `readable_now` are paths that could not be read earlier and are readable folders now. The rows of the paths in
    # `readable_now` are deleted, because the files in the folders have rows now.
    readable_now = [uri for uri, row in earlier.files.items() if row.bytes is None and uri in folder_uris]
    if new_rows or readable_now:
        ledger.record("scan", "not walked", {}, new_rows, delete=[("files", "uri", readable_now)])
    return list(changed_files.values()), uris | unread_rows.keys()


def _scan_files(
    ledger: Ledger, files: Sequence[Path], earlier: _Earlier, map_batches: BatchMap, progress: Progress
) -> list[Path]:
    """Records the rows of `files`.

    Returns the archives among `files`. The rows of the archives are not recorded yet.
    """
    archives: list[Path] = []
    batches = split_into_batches(files, FILES_A_BATCH)
    scan_one_batch = partial(scan_batch, kept_out=earlier.kept_out)
    for done, (batch, rows) in enumerate(zip(batches, map_batches(scan_one_batch, batches), strict=True), 1):
        archive_uris = {row.uri for row in rows if isinstance(row, File) and row.reason == ARCHIVE}
        archives += [path for path in batch if uri_of(path) in archive_uris]
        uris = [uri for uri in map(uri_of, batch) if uri not in archive_uris]
        rows = [row for row in rows if not (isinstance(row, File) and row.uri in archive_uris)]
        _record_rows(ledger, uris, rows, earlier)
        progress("scan", min(done * FILES_A_BATCH, len(files)), len(files))
    return archives


def _has_other_members(uri: str, earlier: _Earlier, names: _Names) -> bool:
    """Returns whether the rules now leave out other members of an archive than in the last scan."""
    for member in earlier.members_of.get(uri, ()):
        reason = earlier.files[member].reason
        if names.find_reason(member) != (reason if reason in LEFT_OUT else None):
            return True
    return False


def _scan_archives(
    ledger: Ledger,
    archives: Sequence[Path],
    earlier: _Earlier,
    names: _Names,
    map_batches: BatchMap,
    progress: Progress,
) -> None:
    """Records the rows of the archives' members, then the archives' own rows."""
    for ((archive, member_count),) in map_batches(count_batch, [[path] for path in archives]):
        members = [Member(path_of(archive.uri), index) for index in range(member_count)]
        place = names.find_place(archive.uri)
        scan_one_batch = partial(scan_batch, kept_out=earlier.kept_out, rules=names.rules, archive_place=place)
        uris = {archive.uri}
        for done, rows in enumerate(map_batches(scan_one_batch, split_into_batches(members, FILES_A_BATCH)), 1):
            _record_rows(ledger, [], rows, earlier)
            uris |= {row.uri for row in rows if isinstance(row, File)}
            progress("archives", min(done * FILES_A_BATCH, member_count), member_count)
        # If the archive cannot be read now, the archive may still contain its earlier members, so the rows of the
        # members stay.
        was_read = archive.bytes is not None and archive.reason not in FAILURES
        old_uris = [uri for uri in earlier.members_of[archive.uri] if uri not in uris] if was_read else []
        ledger.record("scan", archive.uri, {}, [archive], delete=[("files", "uri", old_uris)])


def _record_rows(ledger: Ledger, uris: Sequence[str], rows: Sequence[File | Photo], earlier: _Earlier) -> None:
    """Records the rows of the files with these uris."""
    key, hidden = earlier.kept_out.key, earlier.hidden
    rows = [row for row in rows if isinstance(row, Photo) or not must_stay_hidden(row, key, hidden)]
    rows = [keep_photo_id(row, earlier.files.get(row.uri)) if isinstance(row, File) else row for row in rows]
    new_rows = [row for row in rows if not (isinstance(row, Photo) and row.photo_id in earlier.photo_ids)]
    files = {row.uri: row for row in rows if isinstance(row, File)}
    # If a file was an archive and is another kind of file now, the rows of its earlier members are deleted.
    old_members = [uri for row in files.values() if row.bytes is not None for uri in earlier.members_of[row.uri]]
    # If a file is newly kept out, or is no longer kept out, its uri changes. The row with the old uri is deleted.
    old_uris = {uri for uri in uris if uri in earlier.files and uri not in files}
    if hidden:
        old_uris |= {hide_uri(key, uri) for uri in files if not uri.startswith(HIDDEN_PREFIX)} & hidden
    deletions = [("files", "uri", [*old_members, *old_uris]), ("stages", "unit", sorted(old_uris))]
    has_old_rows = bool(old_members or old_uris)
    ledger.record("scan", list(files), {}, _drop_repeated(new_rows), delete=deletions if has_old_rows else [])


def _is_unchanged(path: Path, row: File | None) -> bool:
    try:
        return is_unchanged(row, path.stat())
    except OSError:
        return False


def _drop_repeated(rows: Iterable[Any]) -> list[Record]:
    """Returns the rows without repeated keys, because one batch may contain the same photo twice."""
    first: dict[tuple[Any, ...], Record] = {}
    for row in rows:
        keys = TABLES[type(row)][1]
        first.setdefault((type(row), *(getattr(row, key) for key in keys)), row)
    return list(first.values())


# --- functions that run in a worker process ---


def scan_batch(
    items: Sequence[Path | Member | FailedUnit],
    kept_out: KeptOutList = NOBODY_KEPT_OUT,
    rules: NameRules = NO_RULES,
    archive_place: str = "",
) -> list[File | Photo]:
    """Reads, hashes and decodes each file. Returns a File row for each file, and a Photo row for each picture.

    The row of an archive has the reason ARCHIVE, which `count_batch` may replace. A folder in an archive has no
    row. A file that is kept out is not decoded, and its row does not contain its name or its hash. `rules` apply to
    members. `archive_place` is the path of the members' archive below the folder that the user named.
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
            photo_id = hashlib.file_digest(file, "sha256").hexdigest()
            if (reason_kept_out := kept_out.reason_for(photo_id)) is not None:
                return [_make_hidden_row(uri, kept_out, reason_kept_out)]
            file.seek(0)
            try:
                picture = decode_picture(file)
            except UndecodableImage as error:
                if error.reason == "not_an_image" and is_packed:
                    return [replace(row, status="dropped", reason=ARCHIVE)]
                return [replace(row, reason=error.reason)]
            after = os.fstat(file.fileno())
        if not is_unchanged(row, after):
            raise OSError  # the bytes that were decoded may not be the bytes that were hashed
    except OSError:
        return [make_unread_row(path, "failed", "unreadable_file" if os.path.lexists(path) else "file_vanished")]
    return _make_photo_rows(row, photo_id, picture)


def _scan_member(member: Member, kept_out: KeptOutList, rules: NameRules, archive_place: str) -> list[File | Photo]:
    try:
        status = member.archive.stat()
        header = read_entry(member)
    except (ArchiveError, OSError) as error:
        reason = error.reason if isinstance(error, ArchiveError) else "unreadable_file"
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
        photo_id = sha256_bytes(data)
        if (reason_kept_out := kept_out.reason_for(photo_id)) is not None:
            return [_make_hidden_row(row.uri, kept_out, reason_kept_out)]
        picture = decode_picture(data)
    except OSError:
        return [replace(row, reason="unreadable_file")]
    except ArchiveError as error:
        return [replace(row, reason=error.reason)]
    except UndecodableImage as error:
        is_nested = error.reason == "not_an_image" and is_archive(data[:512])
        return [replace(row, reason=NESTED if is_nested else error.reason)]
    return _make_photo_rows(row, photo_id, picture)


def _make_photo_rows(file: File, photo_id: str, picture: Picture) -> list[File | Photo]:
    height, width = picture.rgb.shape[:2]
    photo = Photo(photo_id, width, height, hash_picture(picture.rgb), notice=picture.notice, **measure_picture(picture))
    return [replace(file, photo_id=photo_id, status="ok"), photo]


def _make_hidden_row(uri: str, kept_out: KeptOutList, reason: str) -> File:
    return File(hide_uri(kept_out.key, uri), None, None, None, "dropped", reason)


def _make_lost_row(lost: FailedUnit) -> File:
    """Returns the row of a file that no worker process could read.

    The row keeps the file's size and modification time, so the file is not read again until it changes.
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
        except OSError:
            rows.append((make_unread_row(archive, "failed", "unreadable_file"), 0))
            continue
        status = "dropped" if reason == ARCHIVE else "failed"
        row = stamp_row(File(uri_of(archive), None, None, None, status, reason), status_of_file)
        rows.append((row, members))
    return rows
