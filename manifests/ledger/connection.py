"""Opens and rewrites the ledger's DuckDB file. Errors of DuckDB become one sentence for the user."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb

from manifests.errors import BadInput, LedgerError, LedgerLocked, LedgerMissing
from manifests.ledger.migrations import create_schema, read_version, refuse_newer, refuse_other_columns
from manifests.ledger.paths import LEDGER_NAME, PENDING_NAME, SPILL_NAME, check_ledger_exists
from manifests.runtime.files import find_blocking_file
from manifests.runtime.text import take_first_line


def open_connection(dataset: Path, write: bool, during_purge: bool, check_tables: bool) -> duckdb.DuckDBPyConnection:
    """Returns a connection to DATASET/manifest.duckdb. `Ledger.open` explains the parameters and the errors."""
    path = dataset / LEDGER_NAME
    if (file := find_blocking_file(dataset)) is not None:
        kind = BadInput if write else LedgerMissing
        raise kind(f"{file} is a file, but a dataset is a folder: name another folder.")
    if not during_purge and (dataset / PENDING_NAME).exists():
        raise LedgerError(
            f"A purge of {dataset} was stopped before its end. Finish the purge with "
            f"`likeness manifest purge {dataset}`."
        )
    if not (write and check_tables):
        check_ledger_exists(dataset)
    con = _connect(path, write)
    try:
        # a SELECT of the user must not read files other than the ledger
        con.execute("SET enable_external_access = false")
        if not check_tables:
            return con
        if write:
            create_schema(con, str(path))
        else:
            version = read_version(con)
            if version == 0:
                raise LedgerError(f"{path} is not a Likeness ledger: name the folder of a dataset.")
            refuse_newer(version, str(path))
        refuse_other_columns(con, str(path))
    except duckdb.Error as error:
        con.close()
        raise LedgerError(f"{path} is not a Likeness ledger: {take_first_line(error)}") from None
    except BaseException:
        con.close()
        raise
    return con


def _connect(path: Path, write: bool) -> duckdb.DuckDBPyConnection:
    """Returns a connection to a DuckDB file. With `write`, a missing file is created."""
    try:
        if path.exists() and not path.is_file():
            raise LedgerError(f"{path} is not a file, but a ledger is a file: name another folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if write and not path.exists():
            _create(path)
        return duckdb.connect(str(path), read_only=not write)
    except OSError as error:
        raise LedgerError(f"Cannot open {path}: {error.strerror or error}.") from None
    except (duckdb.IOException, duckdb.ConnectionException) as error:
        # a locked file and an unreadable file give the same class of error, with different texts
        text = str(error)
        if "Could not set lock" in text or "different configuration" in text:
            raise LedgerLocked(
                f"Another process is using {path}: wait until it has finished, then run the same command again."
            ) from None
        if cause := next((cause for cause in ("Read-only file system", "Permission denied") if cause in text), None):
            raise LedgerError(
                f"{path} cannot be {'written' if write else 'read'} ({cause}): change the permissions of the file "
                "and its folder, or copy the dataset to another place."
            ) from None
        raise LedgerError(f"{path} cannot be opened as a ledger: {take_first_line(error)}") from None
    except duckdb.Error as error:
        raise LedgerError(f"{path} cannot be opened: {take_first_line(error)}") from None


def _create(path: Path) -> None:
    """Create an empty DuckDB file. The file gets its name when it is complete.

    DuckDB cannot open a new file that a killed process left unfinished.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # an earlier process with the same process id may have left the file
        duckdb.connect(str(temporary)).close()
        with contextlib.suppress(OSError):
            # A link, unlike a rename, does not replace a ledger that another process has just made. On a file system
            # without hard links, `os.link` fails. DuckDB then makes the file when it opens the ledger.
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def rewrite_ledger(dataset: Path) -> None:
    """Copy all rows into a new file, and rename the new file to the ledger's name.

    A DuckDB file keeps the bytes of deleted rows. The new file does not contain these bytes. A killed process can leave
    rows in DuckDB's folder of temporary files, so this folder is removed. No other process can open the ledger during
    the copy. If the copy fails, raises LedgerError and keeps the old ledger.
    """
    path = Path(dataset) / LEDGER_NAME
    fresh = path.with_name(f".{LEDGER_NAME}.rewritten.tmp")
    try:
        for leftover in (fresh, Path(f"{fresh}.wal")):
            leftover.unlink(missing_ok=True)
        with duckdb.connect(str(path)) as con:
            # this connection has not written temporary files yet, and no other process has the ledger open
            if (spill := path.with_name(SPILL_NAME)).is_dir():
                shutil.rmtree(spill)
            con.execute("CHECKPOINT")
            (name,) = con.sql("SELECT current_database()").fetchall()[0]
            con.execute("ATTACH '{}' AS rewritten".format(str(fresh).replace("'", "''")))
            con.execute('COPY FROM DATABASE "{}" TO rewritten'.format(name.replace('"', '""')))
            con.execute("DETACH rewritten")
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.replace(path)
        Path(f"{path}.wal").unlink(missing_ok=True)
    except duckdb.Error as error:
        raise LedgerError(f"{path} could not be rewritten: {take_first_line(error)}") from None


@contextlib.contextmanager
def explain_query_errors() -> Iterator[None]:
    """Raises BadInput for an error of DuckDB in a SELECT, and KeyboardInterrupt after Ctrl-C."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from None
        if not isinstance(error, duckdb.Error):
            raise
        raise BadInput(f"The query of the ledger failed: {take_first_line(error)}") from None


def is_interrupt(error: Exception) -> bool:
    """Returns whether Ctrl-C caused this error of DuckDB.

    After Ctrl-C inside a statement, DuckDB raises a RuntimeError. After Ctrl-C during the scan of a Python table,
    DuckDB raises an error whose text contains KeyboardInterrupt.
    """
    return str(error) == "Query interrupted" or "failed: KeyboardInterrupt" in str(error)
