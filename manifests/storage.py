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
from urllib.parse import quote_from_bytes, unquote_to_bytes

from manifests.errors import FolderBusy

# what numpy raises where an .npy file is missing, cut short or changed; its header is parsed as Python
BROKEN_ARRAY = (OSError, ValueError, EOFError, OverflowError, MemoryError, TokenError)
LEDGER_NAME = "manifest.duckdb"
PARTS = ("faces", "embeddings", "lq", "versions")  # a dataset's folders, each file of which has a row
PENDING_NAME = "purge.pending"  # what a purge that has begun must finish
LOCK = ".lock"
MAX_SEED = 2**63 - 1  # the ledger keeps seeds as BIGINT

_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # of write_atomically: the file's name and the process that writes it


def crop_path(dataset: Path, face_id: str) -> Path:
    """Where the 512 px crop of a face lies."""
    return dataset / "faces" / face_id[:2] / f"{face_id}.png"


def shard_path(dataset: Path, shard: str) -> Path:
    """Where a shard of embeddings lies; its name is the sha256 of the file."""
    return dataset / "embeddings" / f"{shard}.npy"


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


def in_the_way(path: Path) -> Path | None:
    """The file that keeps `path` from being a folder: itself or one above it; None where nothing does."""
    here = path.absolute()
    nearest = next((place for place in (here, *here.parents) if os.path.lexists(place)), here)
    if nearest.is_dir():
        return None
    return path if nearest == here else nearest


def sweep(folder: Path, below: bool = True, alone: bool = True) -> None:
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
def only_writer(folder: Path, lock: str = LOCK) -> Iterator[None]:
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


def config_hash(config: Any) -> str:
    """sha256 of a dataclass or plain mapping as sorted JSON: the same settings always give the same hash."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    return sha256_bytes(json.dumps(config, sort_keys=True, default=str).encode())


def uri_of(path: str | Path) -> str:
    """`file://` and the absolute path, percent-encoded from its raw bytes, so that any name has one spelling.

    `..` is taken out as text and symlinks stay: a row is the name that was offered, not what it leads to.
    """
    return "file://" + quote_from_bytes(os.fsencode(os.path.normpath(Path(path).absolute())), safe="/")


def member_uri(archive: Path, index: int, name: bytes) -> str:
    """The uri of an archive, `#`, the member's place in it from 0, `/` and its name: `file:///a.zip#0/b/c.jpg`.

    A `#` in the name of a file or a member is percent-encoded.
    """
    return f"{uri_of(archive)}#{index}/{quote_from_bytes(name, safe='/')}"


def member_of(uri: str) -> tuple[Path, int, bytes] | None:
    """The archive, place and name behind a uri made by `member_uri`; None for any other."""
    archive, packed, member = uri.partition("#")
    if not packed:
        return None
    index, _, name = member.partition("/")
    return path_of(archive), int(index), unquote_to_bytes(name)


def path_of(uri: str) -> Path:
    """The path behind a uri made by `uri_of`; of a member's, the archive that holds it."""
    return Path(os.fsdecode(unquote_to_bytes(uri.partition("#")[0].removeprefix("file://"))))


def place_of(uri: str) -> Path:
    """Where people would say a file lies: its path; a member lies in its archive as though that were a folder."""
    member = member_of(uri)
    return path_of(uri) if member is None else member[0] / os.fsdecode(member[2].lstrip(b"/"))


def no_longer_there(uri: str) -> bool:
    """Whether the file of a uri is gone; one that cannot be looked at is not."""
    try:
        os.lstat(path_of(uri))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
