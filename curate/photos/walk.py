"""Finds every file under the paths that the user named."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import File
from manifests.runtime.text import make_printable
from manifests.runtime.uris import uri_of

LEAVES_FOLDER = "symlink_leaves_folder"
_REASON_OF_ERROR = {errno.ELOOP: "symlink_loop", errno.ENOENT: "broken_symlink", errno.ENOTDIR: "broken_symlink"}


def check_photo_paths(paths: Sequence[Path]) -> None:
    """Raises BadInput if a path does not exist or is itself a dataset."""
    for path in paths:
        if not os.path.lexists(path):
            raise BadInput(f"{make_printable(path)} does not exist: name a photo or a folder of photos.")
        if os.path.lexists(path / LEDGER_NAME):
            raise BadInput(f"{make_printable(path)} is a dataset already: name the folder that contains the photos.")


def walk_files(paths: Sequence[Path], folder_uris: set[str] | None = None) -> Iterator[Path | File]:
    """Yields every file under `paths`, sorted by name within each folder. Each real folder is entered once.

    A symlink is followed if it leads to something under one of `paths`. A path in `paths` may itself be a symlink.
    Each item is a path to scan, or the finished row of something that is not scanned. Not scanned are unreadable
    folders, folders that were entered before, datasets, special files, and symlinks that lead out of `paths`. The
    uris of the entered folders are added to `folder_uris`. Raises BadInput like `check_photo_paths`.
    """
    check_photo_paths(paths)
    entered: set[tuple[int, int]] = set()  # device and inode of each folder
    roots: list[str] = []  # real paths; found only once a symlink is met, because there may be a million paths
    # an explicit stack, because folders may nest deeper than Python can recurse
    stack = [(Path(path), True) for path in reversed(paths)]
    while stack:
        path, named = stack.pop()
        try:
            status = path.stat()
        except OSError as error:
            yield make_unread_row(path, "failed", _REASON_OF_ERROR.get(error.errno or 0, "unreadable_file"))
            continue
        folder = (status.st_dev, status.st_ino)
        if is_link := not named and path.is_symlink():
            roots = roots or [os.path.realpath(path) for path in paths]
        if is_link and not _is_under(os.path.realpath(path), roots):
            yield make_unread_row(path, "dropped", LEAVES_FOLDER)
        elif stat.S_ISREG(status.st_mode):
            yield path
        elif not stat.S_ISDIR(status.st_mode):
            yield make_unread_row(path, "failed", "special_file")
        elif folder in entered:
            yield make_unread_row(path, "dropped", "folder_already_walked")
        else:
            entered.add(folder)
            try:
                children = sorted(path.iterdir())
            except OSError:
                yield make_unread_row(path, "failed", "unreadable_folder")
                continue
            if any(child.name == LEDGER_NAME for child in children):
                yield make_unread_row(path, "dropped", "dataset_folder")
            else:
                stack.extend((child, False) for child in reversed(children))
                if folder_uris is not None:
                    folder_uris.add(uri_of(path))


def make_unread_row(path: Path, status: str, reason: str) -> File:
    """Returns the row of a path that was not read."""
    return File(uri_of(path), None, None, None, status, reason)


def _is_under(real_path: str, roots: Sequence[str]) -> bool:
    return any(real_path == root or real_path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)
