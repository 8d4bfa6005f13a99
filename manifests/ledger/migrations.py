"""Creates the tables of a new ledger, and refuses a ledger of another version.

The file tables_and_columns.sql describes the tables of the newest version. The table `migrations` of a ledger has the
version of the ledger.
"""

from __future__ import annotations

import contextlib
from dataclasses import fields
from importlib.resources import files

import duckdb

from manifests.errors import LedgerError, LedgerTooNew
from manifests.ledger.records import TABLES

SCHEMA_VERSION = 1

_CREATE_MIGRATIONS = """CREATE TABLE migrations (
    version INTEGER PRIMARY KEY, purpose VARCHAR NOT NULL, applied TIMESTAMP NOT NULL)"""

# A SELECT that reads no row, and that fails if a table or a column is missing.
_SELECT_ALL_COLUMNS = "SELECT 1 FROM " + ", ".join(
    f"(SELECT {', '.join(field.name for field in fields(kind))} FROM {table} LIMIT 0)"
    for kind, (table, _) in TABLES.items()
)


def read_version(con: duckdb.DuckDBPyConnection) -> int:
    """Returns the schema version of an open ledger. Returns 0 for a database without a table `migrations`."""
    try:
        ((version,),) = con.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchall()
    except duckdb.CatalogException:
        return 0
    return int(version)


def refuse_newer(version: int, where: str) -> None:
    """Raises LedgerTooNew if `version` is newer than SCHEMA_VERSION.

    `where` is the path of the ledger for the message.
    """
    if version > SCHEMA_VERSION:
        raise LedgerTooNew(
            f"{where} has schema version {version}, and this Likeness reads versions up to {SCHEMA_VERSION}: "
            "upgrade Likeness to open this ledger."
        )


def refuse_other_columns(con: duckdb.DuckDBPyConnection, where: str) -> None:
    """Raises LedgerError if a table or a column is missing. Development versions of Likeness made such ledgers."""
    with contextlib.suppress(duckdb.CatalogException, duckdb.BinderException):
        # this statement takes 5 ms; to list all columns takes 25 ms
        con.execute(_SELECT_ALL_COLUMNS)
        return
    rows = con.execute("SELECT table_name, column_name FROM information_schema.columns").fetchall()
    there = {(str(table), str(column)) for table, column in rows}
    for kind, (table, _) in TABLES.items():
        for field in fields(kind):
            if (table, field.name) not in there:
                raise LedgerError(
                    f"{where} was made by another version of Likeness: it has no column {table}.{field.name}. Curate "
                    "the photos into a new folder."
                )


def create_schema(con: duckdb.DuckDBPyConnection, where: str) -> None:
    """Create all tables in an empty database, in one transaction. A ledger that has its tables is not changed.

    Raises LedgerTooNew for a newer ledger. Raises LedgerError for a database that another program made.
    """
    version = read_version(con)
    refuse_newer(version, where)
    if version > 0:
        return
    if con.sql("SELECT 1 FROM information_schema.tables").fetchall():
        raise LedgerError(f"{where} is a database of another program: name another folder.")
    con.execute("BEGIN")
    try:
        con.execute(_CREATE_MIGRATIONS)
        con.execute(files("manifests.ledger").joinpath("tables_and_columns.sql").read_text(encoding="utf-8"))
        con.execute("INSERT INTO migrations VALUES (?, 'created', now()::TIMESTAMP)", [SCHEMA_VERSION])
        con.execute("COMMIT")
    except BaseException:
        con.execute("ROLLBACK")
        raise
