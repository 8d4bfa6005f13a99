"""The ledger of a dataset: the class that opens it, reads its rows and writes them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from manifests.errors import BadInput, LedgerBroken, LedgerError
from manifests.ledger.connection import first_line, is_interrupt, open_connection
from manifests.ledger.paths import shard_path
from manifests.ledger.records import KEYS, TABLES, Record
from manifests.runtime.files import ARRAY_ERRORS, hash_config
from manifests.runtime.json_log import log
from manifests.runtime.versions import code_version, tool_versions

Row = TypeVar("Row")
Deletion = tuple[str, str, Sequence[str]]  # table, column, values: rows with one of the values are deleted
DetailUpdate = tuple[str, str, str, dict[str, Any]]  # stage, unit, config hash, new detail of that row of `stages`

# the columns of `stages` in the order of tables_and_columns.sql
_STAGE_COLUMNS = ("stage", "unit", "config_hash", "code_version", "tool_versions", "detail", "started", "finished")


def utc_now() -> datetime:
    """Returns the current time in UTC without a time zone, as the ledger stores times."""
    return datetime.now(UTC).replace(tzinfo=None)


class Ledger:
    """An open ledger. Use it as a context manager: `with Ledger.open(dataset, write=True) as ledger:`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, dataset: Path) -> None:
        self._con = con
        self.dataset = dataset

    @classmethod
    def open(cls, dataset: Path, write: bool = False, during_purge: bool = False) -> Ledger:
        """Open DATASET/manifest.duckdb. With `write`, a missing ledger is made.

        After an interrupted purge the dataset may still hold data of a purged person. That dataset opens only with
        `during_purge`, which the purge itself uses.

        Raises BadInput if the folder is a file. Raises LedgerMissing, LedgerLocked or LedgerTooNew. Raises LedgerError
        if the file is no ledger or a purge is unfinished.
        """
        return cls(open_connection(Path(dataset), write, during_purge), Path(dataset))

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
        try:
            kinds = [statement.type for statement in duckdb.extract_statements(sql)]
            if len(kinds) != 1 or kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise BadInput(
                    "A query of the ledger is one SELECT; only Likeness's own commands change the ledger. Write one "
                    "SELECT."
                )
            return self._con.sql(sql, params=list(parameters)).pl()
        except (duckdb.Error, RuntimeError) as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            if not isinstance(error, duckdb.Error):
                raise
            raise BadInput(f"The query of the ledger failed: {first_line(error)}") from None
        except pl.exceptions.PolarsError as error:  # polars has no type for intervals and unions
            raise BadInput(
                f"The result of the query of the ledger has a type that cannot be shown ({first_line(error)}): cast "
                "the column, for example with ::VARCHAR."
            ) from None

    def read_table(self, name: str) -> pl.DataFrame:
        """Returns a whole table as a polars frame, ordered by its key."""
        return self.query(f"SELECT * FROM {name} ORDER BY {', '.join(KEYS[name])}")

    def read_rows(self, kind: type[Row], where: str = "true", *parameters: Any) -> list[Row]:
        """Returns the rows of a table as records, ordered by the table's key.

        `kind` is the class of the records. `where` is an SQL condition on the columns, with `?` for parameters:
        `ledger.read_rows(Face, "status = ?", "ok")`.
        """
        name, key = TABLES[kind]
        frame = self.query(f"SELECT * FROM {name} WHERE {where} ORDER BY {', '.join(key)}", *parameters)
        columns = [field.name for field in dataclasses.fields(cast(Any, kind))]
        return [
            kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
            for row in frame.select(columns).iter_rows(named=True)
        ]

    def find_finished(self, stage: str, config: Any) -> set[str]:
        """Returns the units of a stage that were finished with the same configuration."""
        frame = self.query("SELECT unit FROM stages WHERE stage = ? AND config_hash = ?", stage, hash_config(config))
        return set(frame["unit"])

    def read_detail(self, stage: str) -> dict[str, Any]:
        """Returns the detail of the stage's unit that finished last, or an empty dict if no unit has a detail."""
        details = self.read_details(stage)
        return details[0] if details else {}

    def read_details(self, stage: str) -> list[dict[str, Any]]:
        """Returns the details of all finished units of a stage, the newest first."""
        frame = self.query(
            "SELECT detail FROM stages WHERE stage = ? AND detail IS NOT NULL ORDER BY finished DESC", stage
        )
        return [json.loads(detail) for detail in frame["detail"]]

    def read_embeddings(self, face_ids: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Returns face ids and their embeddings of unit length, float32 (n, d), in the order of `face_ids`.

        Without `face_ids`, returns every face with status ok and an embedding, ordered by face id. Without any face,
        the array is (0, 0). Raises LedgerBroken if a face has no embedding, or if a shard is missing or damaged.
        """
        frame = self.query("SELECT face_id, status, shard, shard_row FROM faces WHERE shard IS NOT NULL ORDER BY 1")
        position = {face: (shard, row) for face, _, shard, row in frame.iter_rows()}
        ids = [row[0] for row in frame.iter_rows() if row[1] == "ok"] if face_ids is None else list(face_ids)
        if missing := [face for face in ids if face not in position]:
            raise LedgerBroken(f"Face {missing[0]} has no embedding: run `likeness curate` again.")
        if not ids:
            return [], np.zeros((0, 0), np.float32)

        # shard -> (row of the result, row of the shard) of each of its faces
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for place, face in enumerate(ids):
            shard, row = position[face]
            by_shard.setdefault(shard, []).append((place, row))

        # one shard is in memory at a time, beside the result
        result = np.zeros((0, 0), np.float32)
        for name in sorted(by_shard):
            vectors, (places, rows) = self._load_shard(name), np.array(by_shard[name]).T
            try:
                if not result.size:
                    result = np.empty((len(ids), vectors.shape[1]), np.float32)
                result[places] = vectors[rows]
            except (IndexError, ValueError):
                raise LedgerBroken(
                    f"The embedding shard {name}.npy is shorter or of another form than the ledger says: run "
                    "`likeness curate` again."
                ) from None
        return ids, result

    def _load_shard(self, name: str) -> np.ndarray:
        try:
            return np.asarray(np.load(shard_path(self.dataset, name)))
        except ARRAY_ERRORS:
            raise LedgerBroken(
                f"The embedding shard {name}.npy is missing or damaged: run `likeness curate` again, which makes a new "
                "one."
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

        A row replaces the row of the same key. `replace` names classes of records whose tables hold nothing but the
        new rows afterwards. `delete` removes rows before the new rows are written. `details` changes the detail of
        units that finished earlier. `detail` is the detail of the new units, and `started` is the time at which they
        started.

        Raises LedgerError, and writes nothing, if a row breaks a rule of the schema or the disk is full.
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
            # DuckDB refuses a key that was deleted in the same transaction, so rows with the keys of new rows stay
            for kind in replace:
                table, keys = TABLES[kind]
                new_keys = [tuple(getattr(row, key) for key in keys) for row in by_kind.get(kind, [])]
                self._delete_others(table, keys, new_keys)
            for kind, batch in by_kind.items():
                self._upsert(kind, batch)
            self._mark(stage, units, config, detail, started)
            self._con.execute("COMMIT")
        except (duckdb.Error, RuntimeError) as error:
            self._roll_back()
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            if not isinstance(error, duckdb.Error):
                raise
            cause = first_line(error)
            if any(text in cause for text in ("No space left", "Disk quota exceeded", "File too large")):
                cause = "the disk is full. Make room, then run the same command again: it goes on where it stopped."
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
        with contextlib.suppress(duckdb.Error):  # a COMMIT that failed has already rolled back
            self._con.execute("ROLLBACK")

    def _mark(
        self, stage: str, units: Sequence[str], config: Any, detail: dict[str, Any] | None, started: datetime | None
    ) -> None:
        """Write one row of `stages` for each unit."""
        if not units:
            return
        end = utc_now()
        common = {
            "stage": stage,
            "config_hash": hash_config(config),
            "code_version": code_version(),
            "tool_versions": json.dumps(tool_versions(), sort_keys=True),
            "detail": None if detail is None else json.dumps(detail, sort_keys=True),
            "started": started or end,
            "finished": end,
        }
        columns = {name: list(units) if name == "unit" else [common[name]] * len(units) for name in _STAGE_COLUMNS}
        self._con.register("marks", pa.table(columns))
        self._con.execute("INSERT OR REPLACE INTO stages SELECT * FROM marks")
        self._con.unregister("marks")

    def _delete_others(self, table: str, keys: tuple[str, ...], new_keys: list[tuple[Any, ...]]) -> None:
        """Delete the rows of a table whose key is not among the new keys."""
        if not new_keys:
            self._con.execute(f"DELETE FROM {table}")
            return
        self._con.register("new_keys", pa.table({key: [row[i] for row in new_keys] for i, key in enumerate(keys)}))
        same = " AND ".join(f"new_keys.{key} = {table}.{key}" for key in keys)
        self._con.execute(f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM new_keys WHERE {same})")
        self._con.unregister("new_keys")

    def _upsert(self, kind: type, batch: list[Record]) -> None:
        """Write records of one class; a record replaces the row of the same key."""
        table, _ = TABLES[kind]
        names = [field.name for field in dataclasses.fields(kind)]
        columns = {name: [getattr(row, name) for row in batch] for name in names}
        self._con.register("incoming", pa.table(columns))
        self._con.execute(f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) SELECT * FROM incoming")
        self._con.unregister("incoming")
