"""Files offered -> one row each, and one row per distinct photo."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from curate.faces.decode import UndecodableImage, decode
from curate.faces.measure import picture_hash
from manifests.errors import BadInput
from manifests.records import File, Photo
from manifests.storage import sha256_bytes, uri_of


def offered(paths: Sequence[Path]) -> Iterator[Path | File]:
    """Every file under the paths, sorted by name at each level, symlinks followed, each real folder walked once.

    Yields a path to be scanned, or the finished row of what cannot be walked: an unreadable folder, a symlink that leads
    back into a folder already walked, a special file. Raises BadInput for a path that does not exist.
    """
    walked: set[tuple[int, int]] = set()
    for path in paths:
        if not os.path.lexists(path):
            raise BadInput(f"{_shown(path)} does not exist: name a photo or a folder of photos.")
        yield from _walk(Path(path), walked)


def _walk(path: Path, walked: set[tuple[int, int]]) -> Iterator[Path | File]:
    try:
        found = os.stat(path)
    except OSError as error:
        yield _failed(path, "symlink_loop" if "symbolic links" in str(error) else "broken_symlink")
        return
    if os.path.isfile(path):
        yield path
        return
    if not os.path.isdir(path):
        yield _failed(path, "special_file")
        return
    here = (found.st_dev, found.st_ino)
    if here in walked:
        yield _failed(path, "folder_already_walked")
        return
    walked.add(here)
    try:
        names = sorted(os.listdir(path))
    except OSError:
        yield _failed(path, "unreadable_folder")
        return
    for name in names:
        yield from _walk(path / name, walked)


def scan_batch(paths: Sequence[Path]) -> list[File | Photo]:
    """Read, hash and decode each file: a File row for every path, a Photo row for every decodable picture."""
    rows: list[File | Photo] = []
    for path in paths:
        uri = uri_of(path)
        try:
            found = os.stat(path)
            data = path.read_bytes()
        except OSError:
            rows.append(_failed(path, "unreadable_file" if os.path.lexists(path) else "file_vanished"))
            continue
        photo_id = sha256_bytes(data)
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
        if file.photo_id is not None:
            by_photo[file.photo_id].append(file)
    changed = []
    for same in by_photo.values():
        first, *others = sorted(same, key=lambda file: file.uri)
        wanted = [replace(first, status="ok", reason=None)]
        wanted += [replace(other, status="dropped", reason="same_file") for other in others]
        changed += [row for row in wanted if row not in same]
    return changed


def _failed(path: Path, reason: str) -> File:
    return File(uri_of(path), None, None, None, "failed", reason)


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
