"""Defines the file in which an evaluation keeps its restored images and values.

The file is an SQLite database with one table of keys and values. A key is a hash of everything on which the value
depends (train/evaluation/cache/keys.py). A value can therefore be wrong only if the file is damaged. Each value has a
checksum, because SQLite does not notice a changed byte in a value.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from manifests.privacy.run_cleanup import EVALUATION_CACHE, remove_evaluation_cache
from manifests.runtime.text import make_printable

_CHECKSUM = 16  # number of bytes
_SELECT = "SELECT CAST(value AS BLOB) FROM entries WHERE key = ?"
_SCOPE = b"scope"  # the key of the entry that contains the scope of the file
# Inserts nothing if another process has given the file another scope in the meantime.
_INSERT = (
    "INSERT OR REPLACE INTO entries SELECT ?, ? "
    "WHERE EXISTS (SELECT 1 FROM entries WHERE key = ? AND CAST(value AS BLOB) = ?)"
)
_WAIT = 10.0  # seconds to wait for another process that writes into the file


class EvaluationCache:
    """Maps keys to bytes, in the file FOLDER/evaluation-cache.sqlite, or only in memory if `folder` is None.

    All entries of a file have the same scope: one hash over the restorer, Likeness and the machine. If the file has
    another scope than `scope`, its entries are removed, so that the file never contains images of two checkpoints. If
    the file cannot be used, `say` gets a sentence, and the evaluation goes on without a cache. If the file is damaged,
    it is removed, and a new file is begun.
    """

    def __init__(self, folder: Path | None, scope: str, say: Callable[[str], None]) -> None:
        self._path = Path(":memory:") if folder is None else folder / EVALUATION_CACHE
        self.scope, self._say = scope, say
        self._connection: sqlite3.Connection | None = None
        self._unwritten: dict[bytes, bytes] = {}
        self._open()

    @property
    def is_usable(self) -> bool:
        """Returns whether the cache keeps values."""
        return self._connection is not None

    def get(self, key: str) -> bytes | None:
        """Returns the value of a key, or None if the cache does not have the key."""
        whole_key = self._hash_key(key)
        if self._connection is None:
            return None
        if whole_key in self._unwritten:
            return self._unwritten[whole_key]
        try:
            row = self._connection.execute(_SELECT, (whole_key,)).fetchone()
        except sqlite3.Error as error:
            self._handle(error)
            return None
        if row is None:
            return None
        checksum, value = row[0][:_CHECKSUM], row[0][_CHECKSUM:]
        if checksum != _compute_checksum(whole_key, value):
            self._handle(sqlite3.DatabaseError("a checksum is wrong"))
            return None
        return bytes(value)

    def put(self, key: str, value: bytes) -> None:
        """Keeps a value in memory until the next `write`."""
        if self._connection is not None:
            self._unwritten[self._hash_key(key)] = value

    def write(self) -> None:
        """Writes the new values into the file in one short transaction, so that two evaluations can share the file."""
        if self._connection is None or not self._unwritten:
            return
        scope = (_SCOPE, self.scope.encode())
        rows = [(key, _compute_checksum(key, value) + value, *scope) for key, value in self._unwritten.items()]
        self._unwritten = {}
        try:
            with self._connection:
                self._connection.executemany(_INSERT, rows)
        except sqlite3.Error as error:
            self._handle(error)

    def close(self) -> None:
        """Writes the new values and closes the file."""
        self.write()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> None:
        try:
            self._connection = sqlite3.connect(self._path, timeout=_WAIT)
            # After a power failure the file may be damaged. The checksums notice the damage.
            self._connection.execute("PRAGMA synchronous = OFF")
            # Without this setting, which some builds of SQLite turn off, the bytes of removed images stay in the file.
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.execute("CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
            row = self._connection.execute(_SELECT, (_SCOPE,)).fetchone()
            if row is None or row[0] != self.scope.encode():
                with self._connection:
                    self._connection.execute("DELETE FROM entries")
                    self._connection.execute("INSERT INTO entries VALUES (?, ?)", (_SCOPE, self.scope.encode()))
        except sqlite3.Error as error:
            self._handle(error)

    def _handle(self, error: sqlite3.Error) -> None:
        """Closes the file of the cache after an error. If the file is damaged, begins a new file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection, self._unwritten = None, {}
        name = make_printable(self._path)
        # An OperationalError has a cause outside the file: a full disk, a read-only folder, or another process.
        if isinstance(error, sqlite3.OperationalError):
            self._say(f"{name} cannot be used ({error}), so this evaluation keeps no values for the next one.")
            return
        self._say(f"{name} is damaged ({error}), so Likeness removes the file and measures everything again.")
        try:
            remove_evaluation_cache(self._path.parent)
        except OSError as problem:
            self._say(f"{name} cannot be removed ({problem}): remove the file.")
            return
        self._open()

    def _hash_key(self, key: str) -> bytes:
        return hashlib.sha256(f"{self.scope} {key}".encode()).digest()


def _compute_checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.sha256(key + value).digest()[:_CHECKSUM]
