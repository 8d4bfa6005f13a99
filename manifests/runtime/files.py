"""Files beside the ledger: where they lie, how they appear (all at once or not at all), how they are named, and how one
process at a time writes them."""

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

# what numpy raises where an .npy file is missing, cut short or changed; its header is parsed as Python
ARRAY_ERRORS = (OSError, ValueError, EOFError, OverflowError, MemoryError, TokenError)
LOCK = ".lock"

_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # of write_atomically: the file's name and the process that writes it


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file beside `path`, flush it to disk, and rename it: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno and error.filename is None:  # a write that finds the disk full names no file
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def find_blocking_file(path: Path) -> Path | None:
    """The file that keeps `path` from being a folder: itself or one above it; None where nothing does."""
    here = path.absolute()
    nearest = next((place for place in (here, *here.parents) if os.path.lexists(place)), here)
    if nearest.is_dir():
        return None
    return path if nearest == here else nearest


def remove_temporary_files(folder: Path, below: bool = True, alone: bool = True) -> None:
    """Remove what killed processes left half written in `folder` and, with `below`, in the folders inside.

    Where this process may not be `alone` in writing there, what a living process of this machine writes stays.
    """
    for left in sorted(folder.glob("**/.*.tmp" if below else ".*.tmp")):
        named = _TEMPORARY.fullmatch(left.name)
        if named is not None and (alone or not _writing(int(named[1]))) and left.is_file():
            left.unlink(missing_ok=True)


def _writing(process: int) -> bool:
    """Whether another process of that number lives. One of our own number was another before us."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def lock_folder(folder: Path, lock: str = LOCK) -> Iterator[None]:
    """Be the only process that writes into `folder`, which is made where it does not exist and removed again where
    nothing came to lie in it. Raises FolderBusy where another process is.

    The lock is the kernel's on FOLDER/.lock, so it ends with the process, however that ends. Where the file system has
    no locks there is none.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file = _locked(folder / lock)
    if file is None:
        raise FolderBusy(
            f"Another process is writing into {folder}: wait until it has finished, then run the same command again."
        )
    try:
        yield
    finally:
        (folder / lock).unlink(missing_ok=True)
        os.close(file)
        with contextlib.suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _locked(path: Path) -> int | None:
    """An open file that holds the lock at `path`; None where another process holds it."""
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
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)  # whoever held it before has removed it meanwhile


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_config(config: Any) -> str:
    """sha256 of a dataclass or plain mapping as sorted JSON: the same settings always give the same hash."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    return sha256_bytes(json.dumps(config, sort_keys=True, default=str).encode())
