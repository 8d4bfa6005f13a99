"""Copies archives from a store to the local disk, so that all members of an archive are read from one download.

The worker processes of this machine share a copy. At most KEPT copies are on the disk. The copies are in a folder for
this user in the system's folder for temporary files. `remove_copies` removes the copies at the end of a command.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO

from manifests.errors import BadInput
from manifests.stores.requests import fetch_to_file
from manifests.stores.store_path import StorePath

# Largest number of copies (ours). The stages read one archive after the other, so at most two are in use at once.
KEPT = 2


def open_copy(archive: StorePath, restart_timer: Callable[[], None]) -> IO[bytes]:
    """Returns an open local copy of an archive. Raises StoreError if the archive cannot be copied."""
    facts = archive.facts or archive.fetch_facts()
    archive.facts = facts
    name = hashlib.sha256(f"{archive.uri} {facts.size} {facts.version} {facts.mtime_ns}".encode()).hexdigest()
    _remove_copies_at_exit()
    folder = _find_folder()
    _make_private(folder)
    copy = folder / name
    with _lock(folder / f"{name}.lock"):
        with contextlib.suppress(FileNotFoundError):
            file = copy.open("rb")
            os.utime(copy)
            return file
        partial = folder / f"{name}.{os.getpid()}.part"
        try:
            fetch_to_file(str(archive), facts, partial, restart_timer)
            file = partial.open("rb")
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)
    _remove_old(folder, copy)
    return file


def remove_copies() -> None:
    """Removes all copies of archives. A process that is reading a copy can still read it to the end."""
    shutil.rmtree(_find_folder(), ignore_errors=True)


@cache
def _remove_copies_at_exit() -> None:
    atexit.register(remove_copies)


def _find_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"likeness-archives-{os.getuid()}"


def _make_private(folder: Path) -> None:
    """Makes a folder that only this user can open.

    Raises BadInput if the path is a link or a file, or if another user made the folder or can open it.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise BadInput(
            f"{folder} is open to other users, and copies of photos would go there. Remove it, or set TMPDIR to "
            "another folder."
        )


def _remove_old(folder: Path, newest: Path) -> None:
    """Removes the copies that were not opened recently, so that at most KEPT copies stay."""
    copies = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == "":
                copies[path] = path.stat().st_mtime_ns
    for path in sorted(copies, key=lambda path: (path == newest, copies[path]))[:-KEPT]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds a lock, so that only one process at a time copies an archive."""
    with path.open("wb") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
