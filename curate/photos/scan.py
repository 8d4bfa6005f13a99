"""The stage `scan` reads every file and every member of an archive, and records a row for each distinct photo."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curate.photos.batches import FILES_A_BATCH, collect, split_into_batches
from curate.photos.dates.date_photos import date_photos
from curate.photos.history.file_history import (
    describe_missing_files,
    find_missing,
    keep_photo_id,
    mark_left_out,
    mark_replaced,
    mark_same_files,
    must_stay_hidden,
)
from curate.photos.history.file_stamps import is_unchanged
from curate.photos.history.frame_changes import move_rows
from curate.photos.history.photo_identity import KnownPhotos, collect_known_photos, find_stale_files, identify
from curate.photos.history.store_failures import describe_unread_files
from curate.photos.name_rules import EXCLUDED, LEFT_OUT, NO_RULES, NameRules, describe_unused_patterns, find_place
from curate.photos.read_files import count_batch, scan_batch
from curate.photos.walk import walk_files
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import TABLES, Face, File, Photo, Record
from manifests.privacy.kept_out import KeptOutList, read_kept_out_list
from manifests.privacy.keys import HIDDEN_PREFIX, hide_uri
from manifests.runtime.archives import ARCHIVE, Member
from manifests.runtime.progress import Progress
from manifests.runtime.uris import display_path, parse_member_uri, uri_of
from manifests.runtime.workers import FAILURES, BatchMap
from manifests.stores.store_path import StorePath


@dataclass(frozen=True)
class _Earlier:
    """The rows of earlier scans."""

    files: dict[str, File]  # by uri
    known: KnownPhotos
    stale: set[str]  # Uris of files that an earlier version of the decoder read.
    members_of: dict[str, list[str]]  # Uri of an archive -> uris of its members.
    kept_out: KeptOutList
    hidden: set[str]  # uris of kept-out files; each uri has an HMAC instead of the name


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

    A file is read again if its size or its times differ from its row, if the decoder was updated, or if `reread` is
    true. The row of an archive is recorded after the rows of all its members. An archive whose scan was interrupted is
    therefore read again. `rules` leave out files and members by their names. Returns notices about files of earlier
    scans that no longer exist, about patterns of `rules` that match no file, and about files that a store did not send.
    Raises StoreFailed if stores failed and no file could be read.
    """
    earlier = _read_earlier(ledger)
    names = _Names(rules, frozenset(map(str, paths)))
    changed_files, uris = _find_changed_files(ledger, paths, earlier, names, reread)
    archives = _scan_files(ledger, changed_files, earlier, map_batches, progress)
    _scan_archives(ledger, archives, earlier, names, map_batches, progress)
    files = ledger.read_rows(File)
    listed = [uri_of(path) for path in paths if isinstance(path, StorePath)]
    notices = describe_unread_files(files, uris, paths)
    missing = find_missing([file for file in files if file.uri not in uris], uris, listed)
    if same_files := mark_same_files(files, missing):
        ledger.record("scan", "same files", {}, same_files)
        files = ledger.read_rows(File)
    dropped_rows, photos_back = mark_replaced(files, ledger.read_rows(Photo), ledger.read_rows(Face))
    if dropped_rows or photos_back:
        # If a file contains a dropped photo again, the row of the photo in `stages` is deleted. The stage `detect` then
        # searches the photo again.
        deletions = [("stages", "unit", [photo.photo_id for photo in photos_back])]
        ledger.record("scan", "replaced files", {}, [*dropped_rows, *photos_back], delete=deletions)
    date_photos(ledger, files)
    places = [names.find_place(file.uri) for file in files if file.reason == EXCLUDED]
    return notices + describe_missing_files(files, earlier.files) + describe_unused_patterns(rules, places)


def _read_earlier(ledger: Ledger) -> _Earlier:
    files = {file.uri: file for file in ledger.read_rows(File)}
    members_of: dict[str, list[str]] = defaultdict(list)
    for uri in files:
        if not uri.startswith(HIDDEN_PREFIX) and parse_member_uri(uri) is not None:
            members_of[uri.partition("#")[0]].append(uri)
    known = collect_known_photos(files.values(), ledger.read_rows(Photo))
    hidden = {uri for uri in files if uri.startswith(HIDDEN_PREFIX)}
    return _Earlier(files, known, find_stale_files(known), members_of, read_kept_out_list(ledger), hidden)


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
        is_stale = reread or uri in earlier.stale or not _is_unchanged(item, earlier.files.get(uri))
        if is_stale or _has_other_members(uri, earlier, names):
            changed_files[uri] = item
    left_out = {uri: row.reason for uri, row in unread_rows.items() if row.reason in LEFT_OUT}
    unread_rows |= {row.uri: row for row in mark_left_out(earlier.files.values(), left_out)}
    new_rows = [row for uri, row in unread_rows.items() if earlier.files.get(uri) != row]
    # `readable_now` are readable folders whose paths could not be read earlier. The rows of `readable_now` are deleted,
    # because the files in the folders have rows now.
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
    done = 0
    for results in collect(zip(batches, map_batches(scan_one_batch, batches), strict=True)):
        paths = [path for batch, _ in results for path in batch]
        rows = [row for _, rows_of_batch in results for row in rows_of_batch]
        archive_uris = {row.uri for row in rows if isinstance(row, File) and row.reason == ARCHIVE}
        archives += [path for path in paths if uri_of(path) in archive_uris]
        uris = [uri for uri in map(uri_of, paths) if uri not in archive_uris]
        rows = [row for row in rows if not (isinstance(row, File) and row.uri in archive_uris)]
        _record_rows(ledger, uris, rows, earlier)
        done += len(paths)
        progress("scan", done, len(files))
    return archives


def _has_other_members(uri: str, earlier: _Earlier, names: _Names) -> bool:
    """Returns whether the rules now leave out a known member of an archive that the last scan read, read one that the
    last scan left out, or leave one out for another reason."""
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
    for path, ((archive, member_count),) in zip(
        archives, map_batches(count_batch, [[path] for path in archives]), strict=True
    ):
        members = [Member(path, index) for index in range(member_count)]
        place = names.find_place(archive.uri)
        scan_one_batch = partial(scan_batch, kept_out=earlier.kept_out, rules=names.rules, archive_place=place)
        uris = {archive.uri}
        batches = split_into_batches(members, FILES_A_BATCH)
        done = 0
        for results in collect(zip(batches, map_batches(scan_one_batch, batches), strict=True)):
            rows = [row for _, rows_of_batch in results for row in rows_of_batch]
            _record_rows(ledger, [], rows, earlier)
            uris |= {row.uri for row in rows if isinstance(row, File)}
            done += sum(len(batch) for batch, _ in results)
            progress("archives", done, member_count)
        # If the archive cannot be read now, the archive may still contain its earlier members, so the rows of the
        # members stay.
        was_read = archive.bytes is not None and archive.reason not in FAILURES
        old_uris = [uri for uri in earlier.members_of[archive.uri] if uri not in uris] if was_read else []
        ledger.record("scan", archive.uri, {}, [archive], delete=[("files", "uri", old_uris)])


def _record_rows(ledger: Ledger, uris: Sequence[str], rows: Sequence[File | Photo], earlier: _Earlier) -> None:
    """Records the rows of the files with the uris `uris`."""
    key, hidden = earlier.kept_out.key, earlier.hidden
    rows = [row for row in rows if isinstance(row, Photo) or not must_stay_hidden(row, key, hidden)]
    rows = [keep_photo_id(row, earlier.files.get(row.uri)) if isinstance(row, File) else row for row in rows]
    new_rows, changes = identify(rows, earlier.known)
    files = {row.uri: row for row in rows if isinstance(row, File)}
    # If a file was an archive and is another kind of file now, the rows of its earlier members are deleted.
    old_members = [uri for row in files.values() if row.bytes is not None for uri in earlier.members_of[row.uri]]
    # The uri of a kept-out file is hidden. If a file is kept out now but was not kept out before, or the reverse, its
    # uri changes, and the row with the old uri is deleted.
    old_uris = {uri for uri in uris if uri in earlier.files and uri not in files}
    if hidden:
        old_uris |= {hide_uri(key, uri) for uri in files if not uri.startswith(HIDDEN_PREFIX)} & hidden
    deletions = [("files", "uri", [*old_members, *old_uris]), ("stages", "unit", sorted(old_uris))]
    has_old_rows = bool(old_members or old_uris)
    to_record = [*_drop_repeated(new_rows), *move_rows(ledger, changes)]
    ledger.record("scan", list(files), {}, to_record, delete=deletions if has_old_rows else [])


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
