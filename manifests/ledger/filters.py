"""Filters remove faces by their measures. A filter is an SQL predicate and a reason.

A filter removes a face if its predicate is true. A predicate that is false or NULL keeps the face, so a missing measure
removes no face. A filter compares 32-bit floats, as the ledger does. A predicate selects the same faces in a
filter and in a query of the ledger: `SELECT ... FROM faces JOIN photos USING (photo_id) WHERE <predicate>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import duckdb
import numpy as np
import polars as pl

from manifests.errors import BadInput
from manifests.ledger.records import Face, Photo
from manifests.runtime.text import take_first_line

_REASON = re.compile(r"[a-z][a-z0-9_]{0,39}")

# The columns with measures of a face that a predicate may use.
_FACE_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(
        ("det_score", "inter_ocular_px", "yaw", "pitch", "roll", "sharpness", "blockiness", "noise", "exposure"),
        pl.Float32,
    ),
    "upsample": pl.Float32,
    "outside": pl.Float32,
    "detail": pl.Float32,
    "clipped": pl.Float32,
    "dark": pl.Float32,
    "turn": pl.Int32,
    "landmark_error": pl.Float32,
    "box": pl.List(pl.Float32),
}
_PHOTO_COLUMNS: dict[str, Any] = {  # Facts about the photo of the face: the columns of PhotoFacts, in the same order.
    "width": pl.Int32,
    "height": pl.Int32,
    "jpeg_quality": pl.Int32,
    "gray": pl.Boolean,
}
COLUMNS = (*_FACE_COLUMNS, *_PHOTO_COLUMNS)

# An example face whose measures are all 1. Some errors of a predicate are found only when the predicate is evaluated.
_EXAMPLE_FACE: dict[str, Any] = {
    "nth": [0],
    **{name: [1] for name in _FACE_COLUMNS},
    **{name: [1] for name in _PHOTO_COLUMNS},
    "box": [[1.0] * 4],
    "gray": [True],
}

# The nodes of DuckDB's syntax tree that a predicate may contain. Subqueries, windows and stars are refused.
_ALLOWED_NODES = {"COMPARISON", "CONJUNCTION", "OPERATOR", "FUNCTION", "CONSTANT", "COLUMN_REF", "CAST", "TYPE",
                  "BETWEEN", "CASE"}  # fmt: skip


class PhotoFacts(NamedTuple):
    """The facts about a photo that a predicate may use."""

    width: int  # In pixels.
    height: int  # In pixels.
    jpeg_quality: int | None = None  # The quality, from 1 to 100. None if the file is not a JPEG.
    gray: bool | None = None  # Whether the photo has no colours.


def list_photo_facts(photo: Photo) -> PhotoFacts:
    """Returns the facts about a photo that a predicate may use."""
    return PhotoFacts(photo.width, photo.height, photo.jpeg_quality, photo.gray)


@dataclass(frozen=True)
class Filter:
    """A predicate, and the reason that the ledger records for each face that the filter removes."""

    reason: str
    sql: str


@dataclass(frozen=True)
class FilterSet:
    """An ordered list of filters. A face gets the reason of the first filter that removes the face.

    `test_filters` remove no face. If the predicate of a test filter is true for a face of the split test, the face can
    be a reference, but not a target.
    """

    name: str
    version: int
    filters: tuple[Filter, ...]
    test_filters: tuple[Filter, ...] = ()

    @property
    def every(self) -> tuple[Filter, ...]:
        """Returns the filters and the test filters."""
        return (*self.filters, *self.test_filters)


def check_filters(filter_set: FilterSet) -> None:
    """Raise BadInput if a reason is malformed or repeated, or if a predicate fails on an example face."""
    where = f"The filter set {filter_set.name!r}"
    reasons = [rule.reason for rule in filter_set.every]
    for rule in filter_set.every:
        if not _REASON.fullmatch(rule.reason):
            raise BadInput(
                f"{where} has the reason {rule.reason!r}: a reason has 1 to 40 lowercase letters, digits and "
                "underscores, and begins with a letter. An example of a reason is too_small."
            )
        if reasons.count(rule.reason) > 1:
            raise BadInput(f"{where} has the reason {rule.reason} twice: give each filter a different reason.")
        try:
            _check_predicate(rule)
        except _PredicateError as problem:
            raise BadInput(f"{where}: the predicate of {rule.reason}, {_shorten(rule.sql)}, {problem}") from None


def list_columns(filter_set: FilterSet) -> set[str]:
    """Returns the columns that the predicates of `filters` use. `check_filters` must have accepted the set."""
    return {name for rule in filter_set.filters for name in list_filter_columns(rule)}


@cache
def list_filter_columns(rule: Filter) -> frozenset[str]:
    """Returns the columns that a filter's predicate uses. `check_filters` must have accepted the predicate."""
    return frozenset(_column_name(node) for node in _walk(_parse(rule.sql)) if node["class"] == "COLUMN_REF")


def find_removals(faces: Sequence[Face], photos: Sequence[PhotoFacts], filter_set: FilterSet) -> np.ndarray:
    """Returns a bool array (faces, filters) that is true where a filter removes a face.

    `photos` contains the facts about the photo of each face, in the order of `faces`. Raises BadInput if a predicate
    fails on a face, for example because a cast overflows.
    """
    removals = np.zeros((len(faces), len(filter_set.filters)), bool)
    if not removals.size:
        return removals
    used = list_columns(filter_set)
    columns = {name: [getattr(face, name) for face in faces] for name in _FACE_COLUMNS.keys() & used}
    columns |= {name: [facts[i] for facts in photos] for i, name in enumerate(_PHOTO_COLUMNS) if name in used}
    table = _make_table({"nth": list(range(len(faces))), **columns})
    with _open_database().cursor() as con:
        con.register("incoming", table)
        try:
            truths = _evaluate(con, filter_set.filters)
        except duckdb.Error:
            # the query evaluated all filters at once, so each filter is evaluated alone to find the one that failed
            for rule in filter_set.filters:
                try:
                    _evaluate(con, (rule,))
                except duckdb.Error as error:
                    raise BadInput(
                        f"The filter set {filter_set.name!r}: the predicate of {rule.reason}, {_shorten(rule.sql)}, "
                        f"fails on a face: {take_first_line(error)}"
                    ) from None
            raise
    for i, column in enumerate(truths):
        removals[:, i] = column
    return removals


class _PredicateError(Exception):
    """Likeness refuses a predicate. The text of this error is the end of a sentence that begins with the predicate."""


def _make_table(columns: dict[str, list[Any]]) -> pl.DataFrame:
    """Returns a table that DuckDB can read. The types of its columns are those of _FACE_COLUMNS and _PHOTO_COLUMNS.

    The table is a polars frame, because pyarrow would also import an installed pandas. This import took a fifth of the
    time in which a worker process of curation imports its libraries (our measurement).
    """
    kinds = {"nth": pl.Int64, **_FACE_COLUMNS, **_PHOTO_COLUMNS}
    return pl.DataFrame({name: pl.Series(name, values, kinds[name], strict=False) for name, values in columns.items()})


def _evaluate(con: duckdb.DuckDBPyConnection, filters: Sequence[Filter]) -> list[np.ndarray]:
    """Returns one bool array (n,) for each filter: whether the filter removes each row of the table `incoming`."""
    # the line break after the predicate ends an SQL comment at the end of the predicate
    columns = ", ".join(f"coalesce((\n{rule.sql}\n), false) AS p{i}" for i, rule in enumerate(filters))
    result = con.execute(f"SELECT nth, {columns} FROM incoming ORDER BY nth").fetchnumpy()
    return [np.asarray(result[f"p{i}"], bool) for i in range(len(filters))]


@cache
def _check_predicate(rule: Filter) -> None:
    """Raise _PredicateError if a predicate is not a true-or-false expression on the columns of one face."""
    nodes = list(_walk(_parse(rule.sql)))
    if others := sorted({node["class"] for node in nodes} - _ALLOWED_NODES):
        raise _PredicateError(f"is not an expression on one face: {', '.join(others).lower()} is not allowed.")
    for node in nodes:
        if node["class"] == "COLUMN_REF" and (len(node["column_names"]) > 1 or _column_name(node) not in COLUMNS):
            raise _PredicateError(
                f"names {'.'.join(node['column_names'])}, which is not a column of a face: the columns are "
                f"{', '.join(COLUMNS)}."
            )
        if node["class"] == "FUNCTION" and node["function_name"].lower() not in _find_allowed_functions():
            raise _PredicateError(
                f"calls {node['function_name']}: use only functions that read one row, and that "
                "always return the same value for the same arguments."
            )
    with _open_database().cursor() as con:
        con.register("incoming", _make_table(_EXAMPLE_FACE))
        try:
            kind = con.execute(f"DESCRIBE SELECT (\n{rule.sql}\n) AS p FROM incoming").fetchall()[0][1]
            if kind == "BOOLEAN":
                _evaluate(con, (rule,))
        except duckdb.Error as error:
            raise _PredicateError(f"cannot be evaluated: {take_first_line(error)}") from None
    if kind != "BOOLEAN":
        raise _PredicateError(f"gives {kind} instead of true or false: compare it with a value.")
    # the predicate must also be valid without brackets: `yaw > 1) OR (yaw < 0` is valid only between brackets
    _parse_statement(f"SELECT 1 WHERE\n{rule.sql}\n")


@cache
def _parse(sql: str) -> dict[str, Any]:
    """Returns the syntax tree of one expression. Raises _PredicateError if the text is not one expression."""
    tree = _parse_statement(f"SELECT (\n{sql}\n)")
    query = tree["statements"][0]["node"]
    plain = query["type"] == "SELECT_NODE" and len(query["select_list"]) == 1 and query["from_table"]["type"] == "EMPTY"
    clauses = ("where_clause", "having", "qualify", "sample", "group_expressions", "modifiers")
    if len(tree["statements"]) > 1 or not plain or any(query.get(clause) for clause in clauses):
        raise _PredicateError("is more than one expression: write only the condition that would follow WHERE.")
    expression: dict[str, Any] = query["select_list"][0]
    return expression


def _parse_statement(statement: str) -> dict[str, Any]:
    """Returns the syntax tree of a statement. Raises _PredicateError if the text is not SQL."""
    with _open_database().cursor() as con:
        try:
            text = con.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()[0][0]
        except duckdb.Error as error:
            raise _PredicateError(f"is not SQL: {take_first_line(error)}") from None
    tree: dict[str, Any] = json.loads(text)
    if tree["error"]:
        raise _PredicateError(f"is not an SQL expression: {str(tree.get('error_message')).splitlines()[0]}.")
    return tree


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yields each node of a syntax tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _walk(part)


def _column_name(node: dict[str, Any]) -> str:
    return str(node["column_names"][-1]).lower()


@cache
def _open_database() -> duckdb.DuckDBPyConnection:
    """Returns a database in memory, in which predicates are evaluated.

    The database has no access to files and the network, and its settings cannot be changed, because a predicate may
    come from a stranger.
    """
    return duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "threads": 1,
            "lock_configuration": "true",
        },
    )


@cache
def _find_allowed_functions() -> frozenset[str]:
    """Returns the names of the SQL functions that a predicate may call.

    The value of such a function depends only on its arguments in one row. random() and count() are not such functions.
    """
    with _open_database().cursor() as con:
        rows = con.execute(
            """SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1
               HAVING bool_and(function_type = 'scalar' AND stability = 'CONSISTENT')"""
        ).fetchall()
    return frozenset(name for (name,) in rows)


def _shorten(sql: str) -> str:
    line = " ".join(sql.split())
    return f"`{line if len(line) <= 80 else line[:79] + '…'}`"
