"""Writes complete files, locks folders and computes hashes, so that commands can be stopped and repeated safely."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

from manifests.errors import FolderBusy
from manifests.stores.store_path import StorePath

# numpy raises these errors for an .npy file that is missing, incomplete or changed (TokenError for a broken header)
ARRAY_ERRORS = (OSError, ValueError, EOFError, OverflowError, MemoryError, TokenError)
LOCK = ".lock"

# `write_atomically` names its temporary files .<name>.<process id>.tmp. If the name has more than _LONG_NAME bytes
# (ours), <name> is its sha256, because most disks allow only 255 bytes.
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
_LONG_NAME = 200


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file beside `path`, flush it to disk, and rename it to `path`.

    A reader sees the old file or the whole new file. Missing folders are created. A file in a store is written with one
    request.
    """
    if isinstance(path, StorePath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # the name of the temporary file must fit the disk if the name of the file fits
    name = path.name if len(os.fsencode(path.name)) <= _LONG_NAME else sha256_bytes(os.fsencode(path.name))
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno and error.filename is None:  # the error of `write` for a full disk does not name the file
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def find_blocking_file(path: Path) -> Path | None:
    """Returns the file that stands in the way of a folder at `path`, or None if a folder can be made there.

    The file is `path` itself or one of its parents.
    """
    if isinstance(path, StorePath):
        return path if path.is_file() else None
    here = path.absolute()
    nearest = next((place for place in (here, *here.parents) if os.path.lexists(place)), here)
    if nearest.is_dir():
        return None
    return path if nearest == here else nearest


def remove_temporary_files(folder: Path, recursive: bool = True, shared: bool = False) -> None:
    """Remove the temporary files that killed processes left in `folder`, and in its subfolders if `recursive` is true.

    Pass `shared` if other processes may be writing into the folder. With `shared`, the files of processes that still
    run on this machine stay. A store has no temporary files.
    """
    if isinstance(folder, StorePath):
        return
    for path in sorted(folder.glob("**/.*.tmp" if recursive else ".*.tmp")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is not None and not (shared and _is_other_process(int(match[1]))) and path.is_file():
            path.unlink(missing_ok=True)


def _is_other_process(number: int) -> bool:
    """Returns whether another process with this id runs.

    Returns False for the id of this process. If a temporary file has the id of this process in its name, the file is
    from an earlier process that had the same id.
    """
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def lock_folder(folder: Path, lock: str = LOCK) -> Iterator[None]:
    """Hold a lock, so that no other process writes into `folder`. Raises FolderBusy if another process holds the lock.

    A missing folder is created. A created folder that is still empty at the end is removed. The lock is the kernel's
    lock on FOLDER/.lock, so the lock ends when the process ends or is killed. In a store, and on a file system without
    locks, two processes can write into the folder at the same time.
    """
    if isinstance(folder, StorePath):
        yield
        return
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file = _lock(folder / lock)
    if file is None:
        raise FolderBusy(
            f"Another process is writing into {folder}: wait until it has finished, then run the same command again."
        )
    try:
        yield
    finally:
        (folder / lock).unlink(missing_ok=True)
        os.close(file)
        with contextlib.suppress(OSError):  # a folder that is not empty is not removed
            for path in new_folders:
                path.rmdir()


def _lock(path: Path) -> int | None:
    """Returns an open file descriptor that holds the lock at `path`, or None if another process holds the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if sys.platform != "win32":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            return file
        # A process that releases the lock also removes the lock file, maybe between this `open` and this `flock`. If
        # the locked file is no longer at `path`, the loop tries again.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


def sha256_bytes(data: bytes) -> str:
    """Returns the sha256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Returns the sha256 of the bytes of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_config(config: Any) -> str:
    """Returns the sha256 of `config`, written as JSON with sorted keys. The same settings always have the same hash."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    return sha256_bytes(json.dumps(config, sort_keys=True, default=str).encode())
