"""Files offered -> one row each, and one row per distinct photo."""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from curate.faces.decode import UndecodableImage, decode
from curate.faces.measure import picture_hash
from manifests.errors import BadInput
from manifests.keys import hidden_uri
from manifests.optout import NOBODY, KeptOutList
from manifests.records import Face, File, Photo
from manifests.storage import LEDGER_NAME, no_longer_there, path_of, sha256_bytes, uri_of

# 1 GiB: a 16-bit RGB TIFF of the most pixels that are decoded, uncompressed (ours); larger files are not read at all
MAX_BYTES = 2**30
FILE_REPLACED = "file_replaced"
# what keeps a file from being read; what it held may still be there
_UNREAD = ("unreadable_file", "broken_symlink", "file_vanished")
_UNWALKABLE = {errno.ELOOP: "symlink_loop", errno.ENOENT: "broken_symlink", errno.ENOTDIR: "broken_symlink"}


def check_offered(paths: Sequence[Path]) -> None:
    """Raise BadInput for a path that does not exist and for one that is a dataset itself."""
    for path in paths:
        if not os.path.lexists(path):
            raise BadInput(f"{shown(path)} does not exist: name a photo or a folder of photos.")
        if os.path.lexists(path / LEDGER_NAME):
            raise BadInput(f"{shown(path)} is a dataset already: name the folder that holds the photos.")


def offered(paths: Sequence[Path], walked_into: set[str] | None = None) -> Iterator[Path | File]:
    """Every file under the paths, sorted by name at each level, symlinks followed, each real folder walked once.

    Yields a path to be scanned, or the finished row of what is not walked: an unreadable folder, a symlink that leads
    back into a folder already walked, a folder that is itself a dataset, a special file. The uris of
    the folders walked are added to `walked_into`. Raises BadInput as `check_offered`.
    """
    check_offered(paths)
    walked: set[tuple[int, int]] = set()
    waiting = [Path(path) for path in reversed(paths)]  # a stack of our own: folders may nest deeper than Python calls
    while waiting:
        path = waiting.pop()
        try:
            found = path.stat()
        except OSError as error:
            yield _turned_away(path, "failed", _UNWALKABLE.get(error.errno or 0, "unreadable_file"))
            continue
        here = (found.st_dev, found.st_ino)
        if stat.S_ISREG(found.st_mode):
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
                waiting.extend(reversed(inside))
                if walked_into is not None:
                    walked_into.add(uri_of(path))


def scan_batch(paths: Sequence[Path], kept_out: KeptOutList = NOBODY) -> list[File | Photo]:
    """Read, hash and decode each file: a File row for every path, a Photo row for every decodable picture.

    What is kept out is not decoded, and its row holds neither its name nor its hash.
    """
    rows: list[File | Photo] = []
    for path in paths:
        uri = uri_of(path)
        try:
            found = path.stat()
            if found.st_size > MAX_BYTES:
                rows.append(File(uri, None, found.st_size, found.st_mtime_ns, "failed", "file_too_large"))
                continue
            data = path.read_bytes()
        except OSError:
            rows.append(_turned_away(path, "failed", "unreadable_file" if os.path.lexists(path) else "file_vanished"))
            continue
        photo_id = sha256_bytes(data)
        if (reason := kept_out.photo(photo_id)) is not None:
            rows.append(File(hidden_uri(kept_out.key, uri), None, None, None, "dropped", reason))
            continue
        try:
            image = decode(data)
        except UndecodableImage as error:
            rows.append(File(uri, None, found.st_size, found.st_mtime_ns, "failed", error.reason))
            continue
        rows.append(File(uri, photo_id, found.st_size, found.st_mtime_ns, "ok"))
        rows.append(Photo(photo_id, image.shape[1], image.shape[0], picture_hash(image)))
    return rows


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
    gone = [row for row in rows if row.photo_id is not None and row.reason not in _UNREAD and no_longer_there(row.uri)]
    if not gone:
        return []
    held = f"{len(gone)} file{'s that held photos are' if len(gone) > 1 else ' that held a photo is'} no longer there"
    first = shown(path_of(min(row.uri for row in gone)))
    return [f"{held}, {first}{' for one' if len(gone) > 1 else ''}; photos, faces and crops stay in the dataset."]


def _turned_away(path: Path, status: str, reason: str) -> File:
    return File(uri_of(path), None, None, None, status, reason)


def shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
