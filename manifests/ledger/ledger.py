"""The ledger: one DuckDB file, one class that writes SQL, one writer at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from manifests.errors import BadInput, LedgerBroken, LedgerError, LedgerLocked, LedgerMissing
from manifests.ledger.migrations import create_schema, read_version, refuse_newer
from manifests.ledger.paths import LEDGER_NAME, PENDING_NAME, shard_path
from manifests.ledger.records import KEYS, TABLES, Record
from manifests.runtime.files import ARRAY_ERRORS, find_blocking_file, hash_config
from manifests.runtime.json_log import log
from manifests.runtime.versions import code_version, tool_versions

Row = TypeVar("Row")
Deletion = tuple[str, str, Sequence[str]]  # table, column, values: the rows that go
_WORDS = ("p-[0-9a-f]+|[0-9a-f]+", "file://[A-Za-z0-9_.~%/-]+")  # ids and hashes; uris as `uri_of` writes them
DetailUpdate = tuple[str, str, str, dict[str, Any]]  # stage, unit, config hash: what it noted from now on


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class Ledger:
    """An open ledger. Use it as a context manager: `with Ledger.open(dataset, write=True) as ledger:`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, dataset: Path) -> None:
        self._con = con
        self.dataset = dataset

    @classmethod
    def open(cls, dataset: Path, write: bool = False, finishing: bool = False) -> Ledger:
        """Open DATASET/manifest.duckdb; with `write` it is made where it does not exist and brought up to date.

        A dataset whose purge was stopped opens only for who is `finishing` it: half of somebody may still be there.
        Raises BadInput for a folder that is a file, LedgerMissing, LedgerLocked, LedgerTooNew, or LedgerError for a
        file that is no ledger.
        """
        path = Path(dataset) / LEDGER_NAME
        if (file := find_blocking_file(Path(dataset))) is not None:
            kind = BadInput if write else LedgerMissing
            raise kind(f"{file} is a file and a dataset is a folder: name another one.")
        if not finishing and (Path(dataset) / PENDING_NAME).exists():
            raise LedgerError(
                f"A purge of {dataset} was stopped before its end: `likeness manifest purge {dataset}` finishes it."
            )
        try:
            if not write and not path.exists():
                raise LedgerMissing(
                    f"{dataset} holds no {LEDGER_NAME}: make a dataset with `likeness curate PHOTOS --out {dataset}`."
                )
            if path.exists() and not path.is_file():
                raise LedgerError(f"{path} is not a file: name another folder.")
            path.parent.mkdir(parents=True, exist_ok=True)
            con = duckdb.connect(str(path), read_only=not write)
        except OSError as error:
            raise LedgerError(f"Cannot open {path}: {error.strerror or error}.") from None
        except (duckdb.IOException, duckdb.ConnectionException) as error:
            if any(said in str(error) for said in ("Could not set lock", "different configuration")):
                raise LedgerLocked(
                    f"Another process is using {path}: wait until it has finished, then run the same command again."
                ) from None
            if why := next((w for w in ("Read-only file system", "Permission denied") if w in str(error)), None):
                raise LedgerError(
                    f"{path} cannot be {'written' if write else 'read'} ({why}): see to the permissions of file and "
                    "folder, or copy the dataset elsewhere."
                ) from None
            raise LedgerError(f"{path} cannot be opened as a ledger: {_first_line(error)}") from None
        except duckdb.Error as error:
            raise LedgerError(f"{path} cannot be opened: {_first_line(error)}") from None
        try:
            con.execute("SET enable_external_access = false")  # SQL of others reads this ledger and no other file
            if write:
                create_schema(con, str(path))
            elif read_version(con) == 0:
                raise LedgerError(f"{path} is not a Likeness ledger: name the folder of a dataset.")
            else:
                refuse_newer(read_version(con), str(path))
        except duckdb.Error as error:
            con.close()
            raise LedgerError(f"{path} is not a Likeness ledger: {_first_line(error)}") from None
        except BaseException:
            con.close()
            raise
        return cls(con, Path(dataset))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._con.close()

    # reading

    def query(self, sql: str, *parameters: Any) -> pl.DataFrame:
        """The result of one SELECT. Raises BadInput for any other statement and for one that cannot be answered."""
        try:
            kinds = [statement.type for statement in duckdb.extract_statements(sql)]
            if len(kinds) != 1 or kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise BadInput(
                    "The ledger answers one SELECT at a time and is changed only by Likeness's own commands."
                )
            return self._con.sql(sql, params=list(parameters)).pl()
        except (duckdb.Error, RuntimeError) as error:
            if _interrupted(error):
                raise KeyboardInterrupt from None
            if not isinstance(error, duckdb.Error):
                raise
            raise BadInput(f"The ledger cannot answer that query: {_first_line(error)}") from None
        except pl.exceptions.PolarsError as error:  # a type that a frame has no word for: intervals, unions
            raise BadInput(
                f"The ledger's answer cannot be shown ({_first_line(error)}): cast the column, as in ::VARCHAR."
            ) from None

    def read_table(self, name: str) -> pl.DataFrame:
        """A whole table, ordered by its key."""
        return self.query(f"SELECT * FROM {name} ORDER BY {', '.join(KEYS[name])}")

    def has_table(self, table: str) -> bool:
        """Whether there is such a table; an older ledger that is only read may lack one."""
        return bool(len(self.query("SELECT 1 FROM information_schema.tables WHERE table_name = ?", table)))

    def read_rows(self, kind: type[Row]) -> list[Row]:
        """A whole table as records, ordered by its key: `ledger.read_rows(Face)`."""
        name = TABLES[kind][0]
        # an older ledger that is only read may lack a table or a column that a later version added
        if not len(self.query("SELECT 1 FROM information_schema.tables WHERE table_name = ?", name)):
            return []
        table = self.read_table(name)
        names = [field.name for field in dataclasses.fields(cast(Any, kind)) if field.name in table.columns]
        return [
            kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
            for row in table.select(names).iter_rows(named=True)
        ]

    def find_finished(self, stage: str, config: Any) -> set[str]:
        """The units of `stage` that were finished under this very configuration."""
        found = self.query("SELECT unit FROM stages WHERE stage = ? AND config_hash = ?", stage, hash_config(config))
        return set(found["unit"])

    def read_detail(self, stage: str) -> dict[str, Any]:
        """What the newest finished unit of `stage` noted down; empty where it never ran."""
        found = self.read_details(stage)
        return found[0] if found else {}

    def read_details(self, stage: str) -> list[dict[str, Any]]:
        """What every finished unit of `stage` noted down, the newest first."""
        found = self.query(
            "SELECT detail FROM stages WHERE stage = ? AND detail IS NOT NULL ORDER BY finished DESC", stage
        )
        return [json.loads(detail) for detail in found["detail"]]

    def read_embeddings(self, face_ids: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Face ids and their unit embeddings, float32 (n, d); without `face_ids`, of every embedded face that is ok."""
        rows = self.query("SELECT face_id, status, shard, shard_row FROM faces WHERE shard IS NOT NULL ORDER BY 1")
        where = {face: (shard, row) for face, _, shard, row in rows.iter_rows()}
        wanted = [row[0] for row in rows.iter_rows() if row[1] == "ok"] if face_ids is None else list(face_ids)
        if missing := [face for face in wanted if face not in where]:
            raise LedgerBroken(f"Face {missing[0]} has no embedding: run `likeness curate` again.")
        if not wanted:
            return [], np.zeros((0, 0), np.float32)
        within: dict[str, list[tuple[int, int]]] = {}  # shard -> places in the answer and rows of the shard
        for place, face in enumerate(wanted):
            shard, row = where[face]
            within.setdefault(shard, []).append((place, row))
        found = np.zeros((0, 0), np.float32)
        for name in sorted(within):  # one shard at a time: nothing is held twice
            vectors, (places, taken) = self._shard(name), np.array(within[name]).T
            try:
                if not found.size:
                    found = np.empty((len(wanted), vectors.shape[1]), np.float32)
                found[places] = vectors[taken]
            except (IndexError, ValueError):
                raise LedgerBroken(
                    f"The embedding shard {name}.npy is shorter or of another form than the ledger says: run "
                    "`likeness curate` again."
                ) from None
        return wanted, found

    def count_rows_with(self, texts: Sequence[str]) -> tuple[int, list[str]]:
        """How many rows there are, and a sentence for each table in which one of the ids or uris stands."""
        # looked for as words, so that a million rows are joined and not compared one by one
        sql = """SELECT count(*) AS n FROM (SELECT unnest(regexp_extract_all(t::VARCHAR, ?)) AS word FROM {} t)
                 WHERE word IN (SELECT unnest(?::VARCHAR[]))"""
        found, count = [], 0
        for (name,) in self.query("SELECT table_name FROM information_schema.tables ORDER BY 1").iter_rows():
            count += int(self.query(f"SELECT count(*) AS n FROM {name}")["n"][0])
            hits = sum(int(self.query(sql.format(name), words, list(texts))["n"][0]) for words in _WORDS)
            if hits:
                found.append(f"{hits} times in the table {name} of the ledger")
        return count, found

    def _shard(self, name: str) -> np.ndarray:
        try:
            return np.asarray(np.load(shard_path(self.dataset, name)))
        except ARRAY_ERRORS:
            raise LedgerBroken(
                f"The embedding shard {name}.npy is missing or broken: run `likeness curate` again, it is made anew."
            ) from None

    # writing

    def record(
        self,
        stage: str,
        units: str | Sequence[str],
        config: Any,
        rows: Iterable[Record] = (),
        *,
        replace: Sequence[type] = (),
        delete: Sequence[Deletion] = (),
        details: Sequence[DetailUpdate] = (),
        detail: dict[str, Any] | None = None,
        started: datetime | None = None,
    ) -> None:
        """Write the rows of one or more units and their completion marks in one transaction.

        `replace` names record classes whose tables are emptied first; `delete` holds (table, column, values) whose rows
        are removed first; `details` replaces what finished units noted. Rows replace those of the same key. Raises
        LedgerError, with nothing written.
        """
        by_kind: dict[type, list[Record]] = {}
        for row in rows:
            by_kind.setdefault(type(row), []).append(row)
        units = [units] if isinstance(units, str) else units
        # DuckDB checks a key against rows deleted in the same transaction, so replaced tables keep the rows that return
        self._con.execute("BEGIN")
        try:
            for table, column, values in delete:
                self._con.execute(f"DELETE FROM {table} WHERE list_contains(?, {column})", [list(values)])
            for *unit, noted in details:
                told = json.dumps(noted, sort_keys=True)
                where = "WHERE stage = ? AND unit = ? AND config_hash = ?"
                self._con.execute(f"UPDATE stages SET detail = ? {where}", [told, *unit])
            for kind in replace:
                table, keys = TABLES[kind]
                kept = [tuple(getattr(row, key) for key in keys) for row in by_kind.get(kind, [])]
                self._delete_others(table, keys, kept)
            for kind, batch in by_kind.items():
                self._upsert(kind, batch)
            self._mark(stage, units, config, detail, started)
            self._con.execute("COMMIT")
        except (duckdb.Error, RuntimeError) as error:
            self._roll_back()
            if _interrupted(error):
                raise KeyboardInterrupt from None
            if not isinstance(error, duckdb.Error):
                raise
            why = _first_line(error)
            if any(said in why for said in ("No space left", "Disk quota exceeded", "File too large")):
                why = "the disk is full. Make room, then run the same command again: it goes on where it was."
            raise LedgerError(f"Nothing of {stage} was written to the ledger: {why}") from error
        except BaseException:
            self._roll_back()
            raise
        written = {TABLES[kind][0]: len(batch) for kind, batch in by_kind.items()}
        log(
            "recorded",
            dataset=str(self.dataset),
            stage=stage,
            units=len(units),
            rows=written,
            config_hash=hash_config(config),
            code_version=code_version(),
            tool_versions=tool_versions(),
        )

    def _roll_back(self) -> None:
        with contextlib.suppress(duckdb.Error):  # a commit that failed has already rolled back
            self._con.execute("ROLLBACK")

    def _mark(
        self, stage: str, units: Sequence[str], config: Any, detail: dict[str, Any] | None, started: datetime | None
    ) -> None:
        end, hashed, tools = utc_now(), hash_config(config), json.dumps(tool_versions(), sort_keys=True)
        noted = None if detail is None else json.dumps(detail, sort_keys=True)
        marks = [(stage, unit, hashed, code_version(), tools, noted, started or end, end) for unit in units]
        if marks:
            columns = zip(*marks, strict=True)
            self._con.register("marks", pa.table([pa.array(column) for column in columns], list("abcdefgh")))
            self._con.execute("INSERT OR REPLACE INTO stages SELECT * FROM marks")
            self._con.unregister("marks")

    def _delete_others(self, table: str, keys: tuple[str, ...], kept: list[tuple[Any, ...]]) -> None:
        if not kept:
            self._con.execute(f"DELETE FROM {table}")
            return
        self._con.register("kept", pa.table({key: [row[i] for row in kept] for i, key in enumerate(keys)}))
        same = " AND ".join(f"kept.{key} = {table}.{key}" for key in keys)
        self._con.execute(f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM kept WHERE {same})")
        self._con.unregister("kept")

    def _upsert(self, kind: type, batch: list[Record]) -> None:
        table, _ = TABLES[kind]
        names = [field.name for field in dataclasses.fields(kind)]
        columns = {name: [getattr(row, name) for row in batch] for name in names}
        self._con.register("incoming", pa.table(columns))
        self._con.execute(f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) SELECT * FROM incoming")
        self._con.unregister("incoming")


def rewrite_ledger(dataset: Path) -> None:
    """Copy every row into a new file and rename it over the ledger: what was deleted stays in a DuckDB file otherwise.

    Nobody else can write meanwhile. Raises LedgerError, with the ledger as it was.
    """
    path = Path(dataset) / LEDGER_NAME
    fresh = path.with_name(f".{LEDGER_NAME}.rewritten.tmp")
    try:
        for left in (fresh, Path(f"{fresh}.wal")):
            left.unlink(missing_ok=True)
        with duckdb.connect(str(path)) as con:
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
        raise LedgerError(f"{path} could not be written anew: {_first_line(error)}") from None


def _interrupted(error: Exception) -> bool:
    """Whether it was Ctrl-C: inside a statement duckdb makes a RuntimeError of it, while it looks at a table from
    Python an error that quotes it."""
    return str(error) == "Query interrupted" or "failed: KeyboardInterrupt" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
