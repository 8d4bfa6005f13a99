"""Defines `StorePath`, the path of a file or a folder in an object store or on a web server."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Generator
from pathlib import Path, PosixPath
from typing import Any
from urllib.parse import quote, unquote

from manifests.stores import requests
from manifests.stores.addresses import WEB, add_secrets, clean_address, find_scheme, starts_like_address
from manifests.stores.failures import StoreFileMissing
from manifests.stores.requests import Facts

STORE_MARKER = "likeness.json"  # The folder of a dataset in a store contains this file.


class StorePath(PosixPath):
    """A path in a store.

    A StorePath has the methods of `Path` that Likeness uses. These methods send requests to the store, and raise
    StoreError, which is an OSError, if the store refuses a request or does not answer. `list_all` sets the `facts` of
    its paths, so `stat` sends no request for these paths.
    """

    facts: Facts | None = None

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (add_secrets(str(self)), self.facts)

    @property
    def scheme(self) -> str:
        """The first part of the address, for example s3."""
        return find_scheme(str(self))

    @property
    def uri(self) -> str:
        """The uri in the ledger: the address without secrets.

        In the address of an object store, the characters after `://` are percent-encoded.
        """
        scheme, _, rest = str(self).partition("://")
        return str(self) if scheme in WEB else f"{scheme}://{quote(rest, safe='/')}"

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> StorePath:
        return self

    def resolve(self, strict: bool = False) -> StorePath:
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Returns the size, the time and the version (as `st_ctime_ns`) of a file."""
        facts = self.facts or self.fetch_facts()
        mode = stat.S_IFDIR if facts.is_folder else stat.S_IFREG
        times = {"st_mtime_ns": facts.mtime_ns, "st_ctime_ns": facts.version}
        return os.stat_result((mode, 0, 0, 1, 0, 0, facts.size or 0, 0, 0, 0), times)

    def fetch_facts(self) -> Facts:
        """Asks the store for the facts about the file or the folder."""
        return requests.fetch_facts(str(self))

    def check_unchanged(self) -> None:
        """Raises StoreError if the size or the version of the file is no longer the same as in `facts`."""
        requests.check_unchanged(str(self), self.facts)

    def lstat(self) -> os.stat_result:
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._find_mode() != 0

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISDIR(self._find_mode())

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISREG(self._find_mode())

    def is_symlink(self) -> bool:
        return False

    def samefile(self, other: Any) -> bool:
        return self == other

    def _find_mode(self) -> int:
        try:
            return self.stat().st_mode
        except StoreFileMissing:
            return 0

    def open(self, mode: str = "rb", *settings: Any, **more: Any) -> Any:
        """Returns the whole file as an open file in memory. The only mode is "rb"."""
        if mode != "rb":
            raise ValueError(f"{self} cannot be opened with the mode {mode}")
        return io.BytesIO(self.read_bytes())

    def read_bytes(self) -> bytes:
        return requests.fetch_bytes(str(self), self.facts)

    def read_head(self, size: int) -> bytes:
        """Returns the first `size` bytes of the file."""
        return requests.fetch_bytes(str(self), self.facts, size)

    def write_bytes(self, data: Any) -> int:
        """Writes the complete file with one request, so a reader sees the old file or the new file."""
        requests.send_bytes(str(self), bytes(data))
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the file. Does nothing if the file does not exist."""
        requests.delete_file(str(self))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing, because the folders of a store are only parts of the names of its files."""

    def iterdir(self) -> Generator[StorePath, None, None]:
        """Yields the files and the folders in this folder, sorted by name."""
        names = {path.relative_to(self).parts[0] for path in self.list_files()}
        yield from (self / name for name in sorted(names))

    def list_files(self) -> list[StorePath]:
        """Returns all files below this folder, sorted by their names. Returns [] if there is no such folder."""
        return self.list_all()[0]

    def list_all(self) -> tuple[list[StorePath], list[str]]:
        """Returns the files below this folder, and the addresses that `is_plain` refuses. Both lists are sorted."""
        files = []
        found, odd_addresses = requests.list_below(str(self))
        for address, facts in found:
            file = StorePath(address)
            file.facts = facts
            files.append(file)
        return files, odd_addresses


def is_address(text: str | Path) -> bool:
    """Returns whether a text or a path is the address of a file or a folder in a store or on a web server."""
    return isinstance(text, StorePath) or (isinstance(text, str) and starts_like_address(text))


def parse_path(text: str | Path) -> Path:
    """Returns the StorePath of an address, and the Path of any other text. A Path is returned unchanged.

    Raises BadInput if the address cannot be used.
    """
    if isinstance(text, Path):
        return text
    return StorePath(clean_address(text)) if is_address(text) else Path(text)


def parse_uri(uri: str) -> StorePath:
    """Returns the path of the uri of a file in a store."""
    scheme, _, rest = uri.partition("://")
    return StorePath(clean_address(uri) if scheme in WEB else f"{scheme}://{unquote(rest)}")


def _restore(address: str, facts: Facts | None) -> StorePath:
    """Unpickles a StorePath. `address` contains the secrets of the path."""
    path = StorePath(clean_address(address))
    path.facts = facts
    return path
