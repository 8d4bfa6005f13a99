"""Files beside the ledger: where they lie, how they appear (all at once or not at all), how they are named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

LEDGER_NAME = "manifest.duckdb"
MAX_SEED = 2**63 - 1  # the ledger keeps seeds as BIGINT


def crop_path(dataset: Path, face_id: str) -> Path:
    """Where the 512 px crop of a face lies."""
    return dataset / "faces" / face_id[:2] / f"{face_id}.png"


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
    finally:
        temporary.unlink(missing_ok=True)


def in_the_way(path: Path) -> Path | None:
    """The file that keeps `path` from being a folder: itself or one above it; None where nothing does."""
    here = path.absolute()
    nearest = next((place for place in (here, *here.parents) if os.path.lexists(place)), here)
    if nearest.is_dir():
        return None
    return path if nearest == here else nearest


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written under `folder`; only while no other process writes there."""
    for left in sorted(folder.glob("**/.*.tmp")):
        left.unlink(missing_ok=True)


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
