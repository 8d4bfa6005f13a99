"""Finds every file under the paths that the user named."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from curate.photos.name_rules import NO_RULES, NOT_INCLUDED, NameRules
from manifests.errors import BadInput
from manifests.ledger.paths import DATASET_FILES, DATASET_FOLDER, LEDGER_NAME
from manifests.ledger.records import File
from manifests.runtime.archives import is_archive
from manifests.runtime.text import make_printable
from manifests.runtime.uris import uri_of
from manifests.stores.address_lists import read_address_list
from manifests.stores.addresses import WEB, hide_secrets
from manifests.stores.failures import StoreError
from manifests.stores.requests import Facts, check_readable
from manifests.stores.store_path import StorePath, parse_path

LEAVES_FOLDER = "symlink_leaves_folder"
UNSAFE_NAME = "unsafe_name"
_REQUESTS_AT_ONCE = 16  # Largest number (ours) of requests for the sizes of addresses at the same time.
_REASON_OF_ERROR = {errno.ELOOP: "symlink_loop", errno.ENOENT: "broken_symlink", errno.ENOTDIR: "broken_symlink"}


def check_photo_paths(paths: Sequence[Path]) -> None:
    """Raises BadInput if a path does not exist or is itself a dataset."""
    for path in paths:
        if isinstance(path, StorePath):
            check_readable(str(path))
            if path.scheme not in WEB and any((path / name).exists() for name in sorted(DATASET_FILES)):
                raise BadInput(f"{path} contains the files of a dataset. Name the folder that contains the photos.")
            continue
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
    stack = [(parse_path(path), "", True) for path in reversed(paths)]
    while stack:
        path, place, is_from_user = stack.pop()
        if is_from_user and (addresses := read_address_list(path)) is not None:
            yield from _walk_addresses(addresses, rules)
            continue
        if isinstance(path, StorePath):
            yield from _walk_store(path, rules, folder_uris)
            continue
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
            if any(child.name in DATASET_FILES for child in children):
                yield make_unread_row(path, "dropped", DATASET_FOLDER)
            else:
                prefix = f"{place}/" if place else ""
                stack.extend((child, prefix + child.name, False) for child in reversed(children))
                if folder_uris is not None:
                    folder_uris.add(uri_of(path))


def _walk_store(root: StorePath, rules: NameRules, folder_uris: set[str] | None) -> Iterator[Path | File]:
    """Yields the files below a folder in a store, or the file `root` itself, as `walk_files` does.

    A store has no folders. Each part of a name before a slash is treated as a folder.
    """
    if root.scheme in WEB:
        yield from _walk_addresses([root], rules)
        return
    files, odd_names = root.list_all()
    for address in odd_names:
        yield File(hide_secrets(address), None, None, None, "failed", UNSAFE_NAME)
    datasets = {file.parent for file in files if file.name in DATASET_FILES}
    reasons: dict[Path, str | None] = {}  # Folder -> the reason why it is left out. Has every folder that was seen.
    for file in files:
        parts = file.relative_to(root).parts
        if not parts:
            yield from _walk_addresses([file], rules)
            return
        for depth in range(len(parts)):
            folder = root.joinpath(*parts[:depth])
            if folder not in reasons:
                name = "/".join(parts[:depth]) or root.name
                reason = DATASET_FOLDER if folder in datasets else rules.find_reason(name, is_file=False)
                reasons[folder] = reason
                if reason is not None:
                    yield make_unread_row(folder, "dropped", reason)
                elif folder_uris is not None:
                    folder_uris.add(uri_of(folder))
            if reasons[folder] is not None:
                break
        else:
            reason = rules.find_reason("/".join(parts), is_file=True)
            if reason is None or (reason == NOT_INCLUDED and _is_stored_archive(file)):
                yield file
            else:
                yield make_unread_row(file, "dropped", reason)


def _walk_addresses(addresses: Sequence[StorePath], rules: NameRules) -> Iterator[Path | File]:
    """Yields each address with its facts, or the finished row of an address that cannot be read."""
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
        for path, facts in zip(addresses, threads.map(_find_facts, addresses), strict=True):
            if (reason := rules.find_reason(path.name, is_file=True)) is not None:
                yield make_unread_row(path, "dropped", reason)
            elif isinstance(facts, str):
                yield make_unread_row(path, "failed", facts)
            else:
                path.facts = facts
                yield path


def _find_facts(path: StorePath) -> Facts | str:
    """Returns what the store says about a file, or the reason why the file cannot be read."""
    try:
        facts = path.facts or path.fetch_facts()
    except StoreError as error:
        return error.reason
    return "unreadable_folder" if facts.is_folder else facts


def _is_stored_archive(path: StorePath) -> bool:
    try:
        return is_archive(path.read_head(512))
    except StoreError:
        return False


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
