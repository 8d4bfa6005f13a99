"""How a ledger written by an older Likeness becomes one of today's.

`schema.sql` always describes the newest version; a new ledger is made from it in one step. A step below is written
once, when the schema changes, and never edited: `(version it leads to, what it is for, its SQL statements)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import duckdb

from manifests.errors import LedgerError, LedgerTooNew

Step = tuple[int, str, tuple[str, ...]]

SCHEMA_VERSION = 7
STEPS: tuple[Step, ...] = (  # version 1 is the first
    (2, "the noise of a face", ("ALTER TABLE faces ADD COLUMN noise FLOAT",)),
    (
        3,
        "decisions have a name and what they undo; labels",
        (
            "ALTER TABLE decisions ADD COLUMN name VARCHAR",
            "ALTER TABLE decisions ADD COLUMN undoes BIGINT",
            "CREATE TABLE labels (photo_id VARCHAR PRIMARY KEY, label VARCHAR NOT NULL, truth BOOLEAN NOT NULL)",
        ),
    ),
    (
        4,
        "what must not come in; purges",
        (
            "CREATE TABLE kept_out (mark VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL CHECK (kind IN ('photo', 'face')), "
            "reason VARCHAR NOT NULL CHECK (reason IN ('opted_out', 'purged')), made TIMESTAMP NOT NULL, "
            "embedding FLOAT[], recognizer VARCHAR, CHECK ((kind = 'face') = (embedding IS NOT NULL)), "
            "CHECK ((kind = 'face') = (recognizer IS NOT NULL)))",
            "CREATE TABLE purges (purge_id BIGINT PRIMARY KEY, made TIMESTAMP NOT NULL, removed JSON NOT NULL)",
        ),
    ),
    (
        5,
        "what imported lists say of photos",
        (
            "CREATE TABLE given (photo_id VARCHAR PRIMARY KEY, label VARCHAR, "
            "split VARCHAR CHECK (split IN ('train', 'val', 'test')), refs VARCHAR[])",
        ),
    ),
    (
        6,
        "cleaned versions of training targets, and which of them a round was trained on",
        (
            "CREATE TABLE versions (iteration VARCHAR NOT NULL, round INTEGER NOT NULL, face_id VARCHAR NOT NULL, "
            "defect VARCHAR NOT NULL, parent VARCHAR NOT NULL, checkpoint VARCHAR NOT NULL, "
            "checkpoint_sha256 VARCHAR NOT NULL, metrics JSON NOT NULL, sha256 VARCHAR, "
            "status VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped')), reason VARCHAR, "
            "CHECK (status = 'ok' OR reason IS NOT NULL), CHECK ((status = 'ok') = (sha256 IS NOT NULL)), "
            "PRIMARY KEY (iteration, round, face_id))",
            "CREATE TABLE trained_on (iteration VARCHAR NOT NULL, round INTEGER NOT NULL, face_id VARCHAR NOT NULL, "
            "version INTEGER, PRIMARY KEY (iteration, round, face_id))",
        ),
    ),
    (7, "the hash of a crop", ("ALTER TABLE faces ADD COLUMN crop_sha256 VARCHAR",)),
)

_BOOKKEEPING = """CREATE TABLE IF NOT EXISTS migrations (
    version INTEGER PRIMARY KEY, purpose VARCHAR NOT NULL, applied TIMESTAMP NOT NULL)"""


def version_of(con: duckdb.DuckDBPyConnection) -> int:
    """The schema version of an open ledger; 0 where nothing has been made yet."""
    known = con.sql("SELECT 1 FROM information_schema.tables WHERE table_name = 'migrations'").fetchall()
    return int(con.sql("SELECT coalesce(max(version), 0) FROM migrations").fetchall()[0][0]) if known else 0


def refuse_newer(version: int, where: str, newest: int = SCHEMA_VERSION) -> None:
    if version > newest:
        raise LedgerTooNew(
            f"{where} has schema version {version}, this Likeness knows versions up to {newest}: "
            "upgrade Likeness to open it."
        )


def migrate(
    con: duckdb.DuckDBPyConnection, where: str, steps: Sequence[Step] = STEPS, newest: int = SCHEMA_VERSION
) -> None:
    """Bring an open ledger to `newest`: each step and the row that records it share one transaction.

    Raises LedgerTooNew, and LedgerError for a database of something else, which is left as it is.
    """
    version = version_of(con)
    refuse_newer(version, where, newest)
    if version == 0:
        if con.sql("SELECT 1 FROM information_schema.tables").fetchall():
            raise LedgerError(f"{where} is a database of something else: name another folder.")
        schema = files("manifests.ledger").joinpath("schema.sql").read_text(encoding="utf-8")
        steps = [(newest, "created", (_BOOKKEEPING, schema))]
    for target, purpose, statements in steps:
        if target <= version:
            continue
        con.execute("BEGIN")
        try:
            for statement in statements:
                con.execute(statement)
            con.execute("INSERT INTO migrations VALUES (?, ?, now()::TIMESTAMP)", [target, purpose])
            con.execute("COMMIT")
        except BaseException:
            con.execute("ROLLBACK")
            raise
