"""Filters: SQL predicates on the measures of a face, each with a reason.

A filter removes a face if its predicate is true. A predicate that is false or NULL keeps the face, so a missing measure
removes no face. Numbers are compared as the 32-bit floats of the ledger. A predicate therefore selects the same faces
in a query of the ledger: `SELECT ... FROM faces JOIN photos USING (photo_id) WHERE <predicate>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from manifests.errors import BadInput
from manifests.ledger.connection import first_line
from manifests.ledger.records import Face

_REASON = re.compile(r"[a-z][a-z0-9_]{0,39}")

# the columns that a predicate may use: measures of `faces`, and width and height of the photo in pixels
_OF_FACE: dict[str, pa.DataType] = {
    **dict.fromkeys(
        ("det_score", "inter_ocular_px", "yaw", "pitch", "roll", "sharpness", "blockiness", "noise", "exposure"),
        pa.float32(),
    ),
    "upsample": pa.float32(),
    "box": pa.list_(pa.float32()),
}
_OF_PHOTO = ("width", "height")
COLUMNS = (*_OF_FACE, *_OF_PHOTO)

# a made-up face whose measures are all 1: some errors of a predicate only show when it is evaluated
_TRIAL = {
    "nth": pa.array([0]),
    **{name: pa.array([[1.0] * 4 if pa.types.is_list(kind) else 1.0], kind) for name, kind in _OF_FACE.items()},
    **{name: pa.array([1], pa.int32()) for name in _OF_PHOTO},
}

# the nodes of DuckDB's syntax tree that a predicate may have: no subquery, window, star, lambda or parameter
_NODES = {"COMPARISON", "CONJUNCTION", "OPERATOR", "FUNCTION", "CONSTANT", "COLUMN_REF", "CAST", "TYPE", "BETWEEN",
          "CASE"}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """A predicate and the reason that is recorded for each face that it removes."""

    reason: str
    sql: str


@dataclass(frozen=True)
class FilterSet:
    """Filters in order. A face gets the reason of the first filter that removes it."""

    name: str
    version: int
    filters: tuple[Filter, ...]


def check_filters(filter_set: FilterSet) -> None:
    """Raise BadInput if a set has a bad reason, a reason twice, or a predicate that fails on one made-up face."""
    where = f"The filter set {filter_set.name!r}"
    reasons = [rule.reason for rule in filter_set.filters]
    for rule in filter_set.filters:
        if not _REASON.fullmatch(rule.reason):
            raise BadInput(
                f"{where} has the reason {rule.reason!r}: a reason has 1 to 40 small letters, digits and "
                "underscores, and begins with a letter. An example is too_small."
            )
        if reasons.count(rule.reason) > 1:
            raise BadInput(f"{where} has the reason {rule.reason} twice: give each filter a reason of its own.")
        try:
            _check_predicate(rule)
        except _PredicateError as problem:
            raise BadInput(f"{where}: the predicate of {rule.reason}, {_shorten(rule.sql)}, {problem}") from None


def columns_of(filter_set: FilterSet) -> set[str]:
    """Returns the columns that the predicates of a checked set use."""
    return {name for rule in filter_set.filters for name in columns_of_filter(rule)}


def columns_of_filter(rule: Filter) -> set[str]:
    """Returns the columns that a checked predicate uses."""
    return {_name(node) for node in _walk(_parse(rule.sql)) if node["class"] == "COLUMN_REF"}


def find_removals(faces: Sequence[Face], sizes: Sequence[tuple[int, int]], filter_set: FilterSet) -> np.ndarray:
    """Returns for each face and filter whether the predicate is true: bool (faces, filters).

    `sizes` holds (width, height) of each face's photo in pixels. Raises BadInput if a predicate fails on a face, for
    example because a cast overflows.
    """
    removals = np.zeros((len(faces), len(filter_set.filters)), bool)
    if not removals.size:
        return removals
    used = columns_of(filter_set)
    columns = {
        name: pa.array([getattr(face, name) for face in faces], _OF_FACE[name]) for name in _OF_FACE.keys() & used
    }
    columns |= {
        name: pa.array([size[i] for size in sizes], pa.int32()) for i, name in enumerate(_OF_PHOTO) if name in used
    }
    table = pa.table({"nth": np.arange(len(faces)), **columns})
    with _connection().cursor() as con:
        con.register("incoming", table)
        try:
            columns_of_result = _evaluate(con, filter_set.filters)
        except duckdb.Error:
            # one query evaluates all filters, so the filters are evaluated one by one to find the filter that failed
            for rule in filter_set.filters:
                try:
                    _evaluate(con, (rule,))
                except duckdb.Error as error:
                    raise BadInput(
                        f"The filter set {filter_set.name!r}: the predicate of {rule.reason}, {_shorten(rule.sql)}, "
                        f"fails on a face: {first_line(error)}"
                    ) from None
            raise
    for i, column in enumerate(columns_of_result):
        removals[:, i] = column
    return removals


class _PredicateError(Exception):
    """A predicate is refused. The text is the end of a sentence that begins with the predicate."""


def _evaluate(con: duckdb.DuckDBPyConnection, filters: Sequence[Filter]) -> list[np.ndarray]:
    """Returns for each filter whether it removes each row of the table `incoming`, bool (n,)."""
    # a predicate may end with an SQL comment, which the line break ends
    columns = ", ".join(f"coalesce((\n{rule.sql}\n), false) AS p{i}" for i, rule in enumerate(filters))
    result = con.execute(f"SELECT nth, {columns} FROM incoming ORDER BY nth").fetchnumpy()
    return [np.asarray(result[f"p{i}"], bool) for i in range(len(filters))]


def _check_predicate(rule: Filter) -> None:
    """Raise _PredicateError if a predicate is not an expression on one face that is true or false."""
    nodes = list(_walk(_parse(rule.sql)))
    if others := sorted({node["class"] for node in nodes} - _NODES):
        raise _PredicateError(f"is more than an expression on one face ({', '.join(others).lower()} is not allowed).")
    for node in nodes:
        if node["class"] == "COLUMN_REF" and (len(node["column_names"]) > 1 or _name(node) not in COLUMNS):
            raise _PredicateError(
                f"names {'.'.join(node['column_names'])}, which is no column of a face: the columns are "
                f"{', '.join(COLUMNS)}."
            )
        if node["class"] == "FUNCTION" and node["function_name"].lower() not in _functions():
            raise _PredicateError(
                f"calls {node['function_name']}: only functions of one row that always return the same value are "
                "allowed."
            )
    with _connection().cursor() as con:
        con.register("incoming", pa.table(_TRIAL))
        try:
            kind = con.execute(f"DESCRIBE SELECT (\n{rule.sql}\n) AS p FROM incoming").fetchall()[0][1]
            if kind == "BOOLEAN":
                _evaluate(con, (rule,))
        except duckdb.Error as error:
            raise _PredicateError(f"cannot be evaluated: {first_line(error)}") from None
    if kind != "BOOLEAN":
        raise _PredicateError(f"gives {kind} instead of true or false: compare it with a value.")
    # `yaw > 1) OR (yaw < 0` is an expression only between brackets, so it is parsed without brackets too
    _parse_statement(f"SELECT 1 WHERE\n{rule.sql}\n")


@cache
def _parse(sql: str) -> dict[str, Any]:
    """Returns the syntax tree of one expression. Raises _PredicateError for any other text."""
    tree = _parse_statement(f"SELECT (\n{sql}\n)")
    query = tree["statements"][0]["node"]
    plain = query["type"] == "SELECT_NODE" and len(query["select_list"]) == 1 and query["from_table"]["type"] == "EMPTY"
    clauses = ("where_clause", "having", "qualify", "sample", "group_expressions", "modifiers")
    if len(tree["statements"]) > 1 or not plain or any(query.get(clause) for clause in clauses):
        raise _PredicateError("is more than one expression: write only the condition that follows WHERE.")
    expression: dict[str, Any] = query["select_list"][0]
    return expression


def _parse_statement(statement: str) -> dict[str, Any]:
    """Returns the syntax tree of a statement. Raises _PredicateError if the text is not SQL."""
    with _connection().cursor() as con:
        try:
            text = con.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()[0][0]
        except duckdb.Error as error:
            raise _PredicateError(f"is not SQL: {first_line(error)}") from None
    tree: dict[str, Any] = json.loads(text)
    if tree["error"]:
        raise _PredicateError(f"is not an SQL expression: {str(tree.get('error_message')).splitlines()[0]}.")
    return tree


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yields every node of a syntax tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _walk(part)


def _name(node: dict[str, Any]) -> str:
    return str(node["column_names"][-1]).lower()


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """Returns a database in memory without access to files, network or settings; anyone may write a predicate."""
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
def _functions() -> frozenset[str]:
    """Returns the functions of one row whose value follows from the arguments alone: not random(), now() or count()."""
    with _connection().cursor() as con:
        rows = con.execute(
            """SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1
               HAVING bool_and(function_type = 'scalar' AND stability = 'CONSISTENT')"""
        ).fetchall()
    return frozenset(name for (name,) in rows)


def _shorten(sql: str) -> str:
    line = " ".join(sql.split())
    return f"`{line if len(line) <= 80 else line[:79] + '…'}`"
