"""Finds every file under the paths that the user named."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from curate.photos.name_rules import NO_RULES, NOT_INCLUDED, NameRules
from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import File
from manifests.runtime.archives import is_archive
from manifests.runtime.text import make_printable
from manifests.runtime.uris import uri_of

LEAVES_FOLDER = "symlink_leaves_folder"
_REASON_OF_ERROR = {errno.ELOOP: "symlink_loop", errno.ENOENT: "broken_symlink", errno.ENOTDIR: "broken_symlink"}


def check_photo_paths(paths: Sequence[Path]) -> None:
    """Raises BadInput if a path does not exist or is itself a dataset."""
    for path in paths:
        if not os.path.lexists(path):
            raise BadInput(f"{make_printable(path)} does not exist. Name a photo or a folder of photos.")
        if os.path.lexists(path / LEDGER_NAME):
            raise BadInput(f"{make_printable(path)} is already a dataset. Name the folder that contains the photos.")


def walk_files(
    paths: Sequence[Path], folder_uris: set[str] | None = None, rules: NameRules = NO_RULES
) -> Iterator[Path | File]:
    """Yields every file under `paths`, sorted by name within each folder. Each real folder is entered one time.

    A symlink is followed if it leads to a file or folder under one of `paths`. A path in `paths` may itself be a
    symlink. Each item is a path to scan, or the finished row of a path that is not scanned. Some paths are not
    scanned: unreadable folders, folders that were entered before, datasets, special files, symlinks that lead out of
    `paths`, and everything that `rules` leave out. A folder that `rules` leave out has one row, and its files have no
    rows. The uris of the entered folders are added to `folder_uris`. Raises BadInput like `check_photo_paths`.
    """
    check_photo_paths(paths)
    entered_folders: set[tuple[int, int]] = set()  # Device and inode of each folder.
    # The real paths of `paths` are computed at the first symlink, because `paths` may have a million items.
    roots: list[str] = []
    # The loop has its own stack, because folders may be nested deeper than Python's limit of recursion.
    stack = [(Path(path), "", True) for path in reversed(paths)]
    while stack:
        path, place, is_from_user = stack.pop()
        try:
            status = path.stat()
        except OSError as error:
            yield make_unread_row(path, "failed", _REASON_OF_ERROR.get(error.errno or 0, "unreadable_file"))
            continue
        folder = (status.st_dev, status.st_ino)
        is_folder = stat.S_ISDIR(status.st_mode)
        name = place or path.name  # the name of the folder `.` is empty
        reason = rules.find_reason(name, not is_folder) if name else None
        if reason is not None and not (reason == NOT_INCLUDED and _is_archive(path, status.st_mode)):
            yield make_unread_row(path, "dropped", reason)
            continue
        if is_link := not is_from_user and path.is_symlink():
            roots = roots or [os.path.realpath(path) for path in paths]
        if is_link and not _is_under(os.path.realpath(path), roots):
            yield make_unread_row(path, "dropped", LEAVES_FOLDER)
        elif stat.S_ISREG(status.st_mode):
            yield path
        elif not is_folder:
            yield make_unread_row(path, "failed", "special_file")
        elif folder in entered_folders:
            yield make_unread_row(path, "dropped", "folder_already_walked")
        else:
            entered_folders.add(folder)
            try:
                children = sorted(path.iterdir())
            except OSError:
                yield make_unread_row(path, "failed", "unreadable_folder")
                continue
            if any(child.name == LEDGER_NAME for child in children):
                yield make_unread_row(path, "dropped", "dataset_folder")
            else:
                prefix = f"{place}/" if place else ""
                stack.extend((child, prefix + child.name, False) for child in reversed(children))
                if folder_uris is not None:
                    folder_uris.add(uri_of(path))


def make_unread_row(path: Path, status: str, reason: str) -> File:
    """Returns the row of a path that was not read."""
    return File(uri_of(path), None, None, None, status, reason)


def _is_archive(path: Path, mode: int) -> bool:
    """Returns whether a file is an archive. If --include leaves out an archive by its name, the members are compared
    with --include instead.
    """
    if not stat.S_ISREG(mode):
        return False
    try:
        with path.open("rb") as file:
            return is_archive(file.read(512))
    except OSError:
        return False


def _is_under(real_path: str, roots: Sequence[str]) -> bool:
    return any(real_path == root or real_path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)
