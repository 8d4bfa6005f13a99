"""Has the class Ledger, which opens the ledger of a dataset, and reads and writes its rows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from manifests.errors import BadInput, LedgerBroken, LedgerError
from manifests.ledger.connection import explain_query_errors, is_interrupt, open_connection
from manifests.ledger.paths import shard_path
from manifests.ledger.records import KEYS, TABLES, Record
from manifests.runtime.files import ARRAY_ERRORS, hash_config
from manifests.runtime.json_log import log
from manifests.runtime.text import take_first_line
from manifests.runtime.versions import code_version, tool_versions
from manifests.runtime.workspace import Workspace

Row = TypeVar("Row")
# (table, column, values): the rows of `table` in which `column` has one of `values` are deleted
Deletion = tuple[str, str, Sequence[str]]
# (stage, unit, config hash, detail): in `stages`, the row with this stage, unit and config hash gets this detail
DetailUpdate = tuple[str, str, str, dict[str, Any]]

STREAM_ROWS = 65_536  # largest number of rows in a batch of `Ledger.stream` (ours)

# the columns of `stages` in the order of tables_and_columns.sql
_STAGE_COLUMNS = ("stage", "unit", "config_hash", "code_version", "tool_versions", "detail", "started", "finished")


def utc_now() -> datetime:
    """Returns the current time in UTC without a time zone, as the ledger stores times."""
    return datetime.now(UTC).replace(tzinfo=None)


class Ledger:
    """An open ledger. Use a Ledger as a context manager: `with Ledger.open(dataset, write=True) as ledger:`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, dataset: Path) -> None:
        self._con = con
        self.dataset = dataset
        self._newest: datetime | None = None  # the newest time in `stages`; None before it was read

    @classmethod
    def open(cls, dataset: Path, write: bool = False, during_purge: bool = False, check_tables: bool = True) -> Ledger:
        """Open DATASET/manifest.duckdb. With `write`, a missing ledger is created.

        With `check_tables` False, the version and the columns of the ledger are not checked. If the process has opened
        this ledger before, opening it without this check takes a fifth less time.

        After an interrupted purge, the dataset may still contain data of a purged person. Such a dataset can be opened
        only with `during_purge`. Only the purge itself passes `during_purge`.

        If `dataset` or a folder above it is a file, raises BadInput with `write`, and LedgerMissing without `write`.
        Raises LedgerMissing if there is no ledger to read, LedgerLocked if another process uses the ledger, and
        LedgerTooNew if a newer Likeness made the ledger. Raises LedgerError if the file is not a ledger, or if a purge
        is unfinished.
        """
        return cls(open_connection(Path(dataset), write, during_purge, check_tables), Path(dataset))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._con.close()

    # reading

    def query(self, sql: str, *parameters: Any) -> pl.DataFrame:
        """Returns the result of one SELECT as a polars frame.

        Raises BadInput for any other statement, and for a SELECT that fails.
        """
        with explain_query_errors():
            kinds = [statement.type for statement in duckdb.extract_statements(sql)]
            if len(kinds) != 1 or kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise BadInput(
                    "A query of the ledger must be one SELECT, because only Likeness's own commands change the ledger. "
                    "Write one SELECT."
                )
            try:
                return self._con.sql(sql, params=list(parameters)).pl()
            except pl.exceptions.PolarsError as error:  # for example, polars has no types for intervals and unions
                why = take_first_line(error)
                raise BadInput(
                    f"The query of the ledger returns a column of a type that cannot be shown ({why}). "
                    "Cast the column, for example with ::VARCHAR."
                ) from None

    def make_temporary_table(self, name: str, sql: str, *parameters: Any) -> None:
        """Stores the result of one SELECT in a temporary table, which later queries of this object can read.

        The table is not in the file of the ledger, and is gone when the ledger is closed. The database writes tables
        that do not fit in memory into temporary files beside the ledger.
        """
        with explain_query_errors():
            self._con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}", list(parameters))

    def stream(self, sql: str, *parameters: Any) -> Iterator[pa.RecordBatch]:
        """Returns the result of one SELECT in batches of at most STREAM_ROWS rows.

        Until the last batch is read, this object can run no other query.
        """
        with explain_query_errors():
            reader: Any = self._con.sql(sql, params=list(parameters)).to_arrow_reader(STREAM_ROWS)
            yield from reader

    def _fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Returns the rows of one SELECT of ours. A polars frame, as `query` returns, would take twice the time."""
        with explain_query_errors():
            return self._con.execute(sql, list(parameters)).fetchall()

    def read_table(self, name: str) -> pl.DataFrame:
        """Returns a whole table as a polars frame. The rows are ordered by the table's key."""
        return self.query(f"SELECT * FROM {name} ORDER BY {', '.join(KEYS[name])}")

    def read_rows(self, kind: type[Row], where: str = "true", *parameters: Any) -> list[Row]:
        """Returns the rows of a table as records. The records are ordered by the table's key.

        `kind` is the class of the records. `where` is an SQL condition on the columns. Each `?` in the condition stands
        for one of the parameters. An example is `ledger.read_rows(Face, "status = ?", "ok")`.
        """
        name, key = TABLES[kind]
        columns = ", ".join(field.name for field in dataclasses.fields(cast(Any, kind)))
        found = self._fetch(f"SELECT {columns} FROM {name} WHERE {where} ORDER BY {', '.join(key)}", *parameters)
        # This line takes half of the time of reading many rows. With a generator in place of the inner list, the line
        # would take twice as long.
        return [kind(*[tuple(value) if value.__class__ is list else value for value in row]) for row in found]

    def find_finished(self, stage: str, config: Any) -> set[str]:
        """Returns the finished units of a stage that have this configuration."""
        sql = "SELECT unit FROM stages WHERE stage = ? AND config_hash = ?"
        return {unit for (unit,) in self._fetch(sql, stage, hash_config(config))}

    def read_detail(self, stage: str) -> dict[str, Any]:
        """Returns the newest detail of a stage, or an empty dict if no finished unit has a detail."""
        details = self.read_details(stage)
        return details[0] if details else {}

    def read_details(self, stage: str) -> list[dict[str, Any]]:
        """Returns the details of all finished units of a stage, ordered from the newest to the oldest."""
        sql = "SELECT detail FROM stages WHERE stage = ? AND detail IS NOT NULL ORDER BY finished DESC"
        return [json.loads(detail) for (detail,) in self._fetch(sql, stage)]

    def read_embeddings(
        self, face_ids: Sequence[str] | None = None, workspace: Workspace | None = None
    ) -> tuple[list[str], np.ndarray]:
        """Returns face ids and their embeddings of unit length, float32 (n, d), in the order of `face_ids`.

        Without `face_ids`, returns all faces that have the status ok and an embedding, ordered by face id. The array
        has the shape (0, 0) if there are no faces. Raises LedgerBroken if a face has no embedding, or if a shard is
        missing or damaged.
        """
        frame = self.query("SELECT face_id, status, shard, shard_row FROM faces WHERE shard IS NOT NULL ORDER BY 1")
        position = {face: (shard, row) for face, _, shard, row in frame.iter_rows()}
        ids = [row[0] for row in frame.iter_rows() if row[1] == "ok"] if face_ids is None else list(face_ids)
        if missing := [face for face in ids if face not in position]:
            raise LedgerBroken(f"Face {missing[0]} has no embedding: run `likeness curate` again.")
        if not ids:
            return [], np.zeros((0, 0), np.float32)

        shards, rows = zip(*(position[face] for face in ids), strict=True)
        return ids, self.read_vectors(shards, np.array(rows), workspace)

    def read_vectors(self, shards: Sequence[str], rows: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
        """Returns rows of embedding shards, float32 (n, d). `shards` (n,) names the shard of each row in `rows` (n,).

        `workspace` makes the array of the result. `n` is at least 1. Raises LedgerBroken if a shard is missing or
        damaged.
        """
        workspace = Workspace() if workspace is None else workspace
        places_by_shard: dict[str, list[int]] = {}
        for place, shard in enumerate(shards):
            places_by_shard.setdefault(shard, []).append(place)
        result = np.zeros((0, 0), np.float32)
        for name in sorted(places_by_shard):
            vectors, places = self._map_shard(name), places_by_shard[name]
            try:
                if not result.size:
                    result = workspace.make_array((len(shards), vectors.shape[1]), np.float32)
                result[places] = vectors[rows[places]]
                workspace.trim()
            except (IndexError, ValueError):
                raise LedgerBroken(
                    f"The embedding shard {name}.npy has too few rows or a wrong number of columns: run "
                    "`likeness curate` again."
                ) from None
        return result

    def _map_shard(self, name: str) -> np.ndarray:
        """Returns a shard as a memory map, from which only the needed rows are read."""
        try:
            return np.asarray(np.load(shard_path(self.dataset, name), mmap_mode="r"))
        except ARRAY_ERRORS:
            raise LedgerBroken(
                f"The embedding shard {name}.npy is missing or damaged: run `likeness curate` again to make a new "
                "shard."
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
        """Write the rows of one or more units of a stage, and mark the units as finished, in one transaction.

        A new row replaces an old row with the same key. `replace` lists classes of records. All other old rows in the
        tables of these classes are deleted. `delete` lists the rows to delete before the new rows are written.
        `details` changes the recorded details of units that finished earlier. `detail` has facts about the new units.
        `started` is the time at which the new units started.

        Raises LedgerError if a row breaks a rule of the schema, or if the disk is full. Nothing is written in this
        case.
        """
        by_kind: dict[type, list[Record]] = {}
        for row in rows:
            by_kind.setdefault(type(row), []).append(row)
        units = [units] if isinstance(units, str) else units
        self._con.execute("BEGIN")
        try:
            for table, column, values in delete:
                self._con.execute(f"DELETE FROM {table} WHERE list_contains(?, {column})", [list(values)])
            for *unit, changed in details:
                where = "WHERE stage = ? AND unit = ? AND config_hash = ?"
                self._con.execute(f"UPDATE stages SET detail = ? {where}", [json.dumps(changed, sort_keys=True), *unit])
            # rows whose keys are written again must not be deleted, because DuckDB would refuse their keys in this
            # transaction
            for kind in replace:
                table, keys = TABLES[kind]
                new_keys = [tuple(getattr(row, key) for key in keys) for row in by_kind.get(kind, [])]
                self._delete_others(table, keys, new_keys)
            for kind, batch in by_kind.items():
                self._upsert(kind, batch, kind in replace)
            self._mark(stage, units, config, detail, started)
            self._con.execute("COMMIT")
        except (duckdb.Error, RuntimeError) as error:
            self._roll_back()
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            if not isinstance(error, duckdb.Error):
                raise
            cause = take_first_line(error)
            if any(text in cause for text in ("No space left", "Disk quota exceeded", "File too large")):
                cause = "the disk is full. Make room, then run the same command again. The command resumes its work."
            raise LedgerError(f"Nothing of the stage {stage} was written to the ledger: {cause}") from error
        except BaseException:
            self._roll_back()
            raise
        log(
            "recorded",
            dataset=str(self.dataset),
            stage=stage,
            units=len(units),
            rows={TABLES[kind][0]: len(batch) for kind, batch in by_kind.items()},
            config_hash=hash_config(config),
            code_version=code_version(),
            tool_versions=tool_versions(),
        )

    def _roll_back(self) -> None:
        with contextlib.suppress(duckdb.Error):  # after a failed COMMIT, no transaction is open
            self._con.execute("ROLLBACK")

    def _mark(
        self, stage: str, units: Sequence[str], config: Any, detail: dict[str, Any] | None, started: datetime | None
    ) -> None:
        """Write one row of `stages` for each unit."""
        if not units:
            return
        end = self.read_clock()
        common = {
            "stage": stage,
            "config_hash": hash_config(config),
            "code_version": code_version(),
            "tool_versions": json.dumps(tool_versions(), sort_keys=True),
            "detail": None if detail is None else json.dumps(detail, sort_keys=True),
            "started": started or end,
            "finished": end,
        }
        if len(units) == 1:  # for one row, parameters take 3.4 ms, and a table takes 5.3 ms
            marks = ", ".join("?" * len(_STAGE_COLUMNS))
            self._con.execute(
                f"INSERT OR REPLACE INTO stages VALUES ({marks})",
                [units[0] if name == "unit" else common[name] for name in _STAGE_COLUMNS],
            )
            return
        columns = {name: list(units) if name == "unit" else [common[name]] * len(units) for name in _STAGE_COLUMNS}
        self._con.register("marks", pa.table(columns))
        self._con.execute("INSERT OR REPLACE INTO stages SELECT * FROM marks")
        self._con.unregister("marks")

    def read_clock(self) -> datetime:
        """Returns the current time in UTC. If the clock ran backwards, returns a time after every time in `stages`."""
        if self._newest is None:
            ((newest,),) = self._con.execute("SELECT max(finished) FROM stages").fetchall()
            self._newest = newest or datetime.min
        self._newest = max(utc_now(), self._newest + timedelta(microseconds=1))
        return self._newest

    def _delete_others(self, table: str, keys: tuple[str, ...], new_keys: list[tuple[Any, ...]]) -> None:
        """Delete the rows of a table whose keys are not in `new_keys`."""
        if not new_keys:
            self._con.execute(f"DELETE FROM {table}")
            return
        self._con.register("new_keys", pa.table({key: [row[i] for row in new_keys] for i, key in enumerate(keys)}))
        same = " AND ".join(f"new_keys.{key} = {table}.{key}" for key in keys)
        self._con.execute(f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM new_keys WHERE {same})")
        self._con.unregister("new_keys")

    def _upsert(self, kind: type, batch: list[Record], skip_equal: bool) -> None:
        """Write records of one class. A record replaces an old row with the same key.

        With `skip_equal`, records that are equal to an old row are not written. This saves time, because
        DuckDB takes .26 ms to replace a row with lists, and a stage that replaces a whole table often changes few rows.
        To find the equal rows, the whole table is read.
        """
        table, keys = TABLES[kind]
        names = [field.name for field in dataclasses.fields(kind)]
        columns = {name: [getattr(row, name) for row in batch] for name in names}
        self._con.register("incoming", pa.table(columns))
        rows = "SELECT * FROM incoming"
        if skip_equal:
            rows = f"({rows} EXCEPT SELECT {', '.join(names)} FROM {table}) ORDER BY {', '.join(keys)}"
        self._con.execute(f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) {rows}")
        self._con.unregister("incoming")
