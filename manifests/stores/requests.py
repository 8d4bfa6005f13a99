"""Sends the requests to object stores and web servers. Only this module imports fsspec.

A request that fails is repeated after a pause, and each pause is longer than the one before. A request is not repeated
if the file does not exist, or if the store denies access to the file.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from manifests.errors import BadInput
from manifests.stores.addresses import add_secrets, find_scheme, is_plain
from manifests.stores.failures import (
    FILE_CHANGED,
    MISSING,
    TRUNCATED,
    StoreError,
    StoreFileMissing,
    describe_error,
    explain_error,
)

# A request is sent at most ATTEMPTS times (ours). The first pause has FIRST_PAUSE seconds, and each later pause is
# twice as long: .5, 1, 2 and 4 s. A pause is shortened by up to a half at random, so that many processes do not repeat
# at once.
ATTEMPTS = 5
FIRST_PAUSE = 0.5
# huggingface_hub itself sends a request up to 6 times, with pauses of 23 s in all, so two attempts are enough (ours).
_ATTEMPTS_OF_SCHEME = {"hf": 2}
TIMEOUT = 20  # Longest time (ours) in seconds in which a store must accept a connection, or send the next bytes.

# fsspec returns facts about a file. The values of these keys change when the bytes of the file change. The best key
# comes first.
_VERSIONS = ("ETag", "etag", "oid", "blob_id", "generation", "md5Hash", "crc32c", "Content-MD5", "Digest")
_TIMES = ("LastModified", "Last-Modified", "updated", "mtime")
# Without these options, huggingface_hub answers a call from its last listing, which does not show changes.
_WITHOUT_CACHE = {"hf": {"refresh": True, "expand_info": True}}
WRITABLE = ("s3", "gs")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Facts:
    """What a store says about one file."""

    size: int | None  # The size in bytes. None if a web server does not send it.
    mtime_ns: int  # The time of the last change in nanoseconds since 1970. 0 if the store does not send it.
    # The first 63 bits of the sha256 of the file's ETag, or of another value that changes with the bytes. 0 if the
    # store has no such value.
    version: int
    is_folder: bool = False


def check_readable(address: str) -> None:
    """Raises BadInput if an address does not exist, or if it cannot be read."""
    try:
        fetch_facts(address)
    except StoreError as error:
        raise BadInput(f"{address} cannot be read: {error.strerror}.") from None


def check_writable(address: str) -> None:
    """Raises BadInput if Likeness cannot write files of this scheme."""
    if find_scheme(address) not in WRITABLE:
        raise BadInput(
            f"{address} cannot be written. Name an address that begins with s3:// or gs://, or a local folder."
        )


def fetch_facts(address: str) -> Facts:
    """Asks the store for the facts about a file or a folder. Raises StoreError."""
    store = _open_store(address)
    return _read_facts(_repeat(address, lambda: store.info(add_secrets(address))))


def fetch_bytes(address: str, facts: Facts | None = None, end: int | None = None) -> bytes:
    """Returns the bytes of a file, or only the first `end` bytes.

    Raises StoreError, also if the number of bytes does not fit the size in `facts`. If `facts` is None, the facts are
    fetched.
    """
    store, known = _open_store(address), facts or fetch_facts(address)
    if known.is_folder:
        raise StoreFileMissing(address, MISSING)

    def fetch() -> bytes:
        data: bytes = store.cat_file(add_secrets(address), **({} if end is None else {"start": 0, "end": end}))
        data = data[:end]  # a web server may send the whole file instead of a part
        if known.size is not None and len(data) != (known.size if end is None else min(end, known.size)):
            raise _find_cause(address, known)
        return data

    return _repeat(address, fetch)


def fetch_to_file(address: str, facts: Facts, target: Path, restart_timer: Callable[[], None]) -> None:
    """Copies a file from the store into the local file `target`. Calls `restart_timer` after each part of the file.

    Raises StoreError, also if the file in the store has changed since its `facts` were read.
    """
    from fsspec.callbacks import Callback

    class Parts(Callback):
        def relative_update(self, inc: int = 1) -> None:
            restart_timer()

    store = _open_store(address)

    def fetch() -> None:
        store.get_file(add_secrets(address), str(target), callback=Parts())
        if facts.size is not None and target.stat().st_size != facts.size:
            raise _find_cause(address, facts)

    _repeat(address, fetch)
    check_unchanged(address, facts)


def check_unchanged(address: str, facts: Facts | None) -> None:
    """Raises StoreError if the size or the version of a file is no longer the same as in `facts`."""
    store = _open_store(address)
    options = _WITHOUT_CACHE.get(find_scheme(address), {})
    now = _read_facts(_repeat(address, lambda: store.info(add_secrets(address), **options)))
    if facts is not None and (facts.size, facts.version) != (now.size, now.version):
        raise StoreError(address, FILE_CHANGED)


def list_below(address: str) -> tuple[list[tuple[str, Facts]], list[str]]:
    """Returns the files below a folder with their facts, and the addresses that `is_plain` refuses.

    Both lists are sorted. If `address` is a file, returns only this file. Raises StoreError.
    """
    store, scheme = _open_store(address), find_scheme(address)
    found = _repeat(address, lambda: store.find(add_secrets(address), detail=True))
    # for a folder, some programs write an empty file whose name ends with a slash
    infos = {f"{scheme}://{name}": info for name, info in sorted(found.items()) if not name.endswith("/")}
    files = {name: info for name, info in infos.items() if info.get("type") != "directory"}
    odd = [name for name in files if not is_plain(name)]
    return [(name, _read_facts(info)) for name, info in files.items() if is_plain(name)], odd


def send_bytes(address: str, data: bytes) -> None:
    """Writes a complete file with one request.

    Raises BadInput if Likeness cannot write files of this scheme, and StoreError if the request fails.
    """
    check_writable(address)
    store = _open_store(address)
    _repeat(address, lambda: store.pipe_file(address, data))


def send_file(address: str, source: Path) -> None:
    """Writes a complete file from a local file.

    A large file needs several requests, but no reader sees an incomplete file.

    Raises BadInput if Likeness cannot write files of this scheme, and StoreError if a request fails.
    """
    check_writable(address)
    store = _open_store(address)
    _repeat(address, lambda: store.put_file(str(source), address))


def delete_file(address: str) -> None:
    """Deletes a file. Does nothing if the file does not exist. Raises StoreError."""
    store = _open_store(address)
    try:
        _repeat(address, lambda: store.rm_file(address))
    except StoreFileMissing:
        return


def _open_store(address: str) -> Any:
    return _make_store(find_scheme(address), os.getpid())


@cache
def _make_store(scheme: str, process: int) -> Any:
    """Returns fsspec's file system for a scheme.

    Each process needs its own file system, because no file system of fsspec works after a fork.
    """
    try:
        import fsspec

        if scheme == "gs":  # otherwise, gcsfs asks for the type of each bucket, and warns if the answer is denied
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        store = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **_settings(scheme))
    except ImportError:
        raise BadInput(
            f"Addresses that begin with {scheme}:// need more packages: pip install 'likeness[stores]'"
        ) from None
    if scheme == "s3":
        store.retries = 1  # this module repeats requests
    return store


def _settings(scheme: str) -> dict[str, Any]:
    if scheme == "s3":
        limits = {"connect_timeout": TIMEOUT, "read_timeout": TIMEOUT, "retries": {"max_attempts": 0}}
        return {"config_kwargs": limits}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
        return {"client_kwargs": {"timeout": timeout}}
    return {}


def _repeat(address: str, send: Callable[[], Result]) -> Result:
    """Returns the result of `send`, which is called at most ATTEMPTS times. The text of a StoreError has no secret."""
    attempts = _ATTEMPTS_OF_SCHEME.get(find_scheme(address), ATTEMPTS)
    for attempt in range(1, attempts + 1):
        try:
            return send()
        except (MemoryError, BadInput):
            raise
        except Exception as error:
            reason, is_final = explain_error(error)
            if is_final or attempt == attempts:
                kind = StoreFileMissing if reason == MISSING else StoreError
                raise kind(address, reason, describe_error(address, reason, error)) from None
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    raise AssertionError


def _find_cause(address: str, facts: Facts) -> StoreError:
    """Returns the error for a file whose size is not the size in `facts`."""
    try:
        check_unchanged(address, facts)
    except StoreError as error:
        return error
    return StoreError(address, TRUNCATED)


def _read_facts(info: dict[str, Any]) -> Facts:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    size = info.get("size")
    return Facts(
        None if size is None else int(size),
        next((time_ns for key in _TIMES if (time_ns := _read_time(info.get(key)))), 0),
        int.from_bytes(hashlib.sha256(version.encode()).digest()[:8]) >> 1 if version else 0,
        info.get("type") == "directory",
    )


def _read_time(value: Any) -> int:
    """Returns a time in nanoseconds since 1970, cut to whole seconds, because not all stores list fractions."""
    if isinstance(value, str):
        try:
            value = parsedate_to_datetime(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                return 0
    if isinstance(value, datetime):
        return int(value.timestamp()) * 10**9
    return int(value) * 10**9 if isinstance(value, (int, float)) else 0
