"""Filters: named SQL predicates over a face's measures. A face of which a predicate is true is removed.

One that is false or NULL keeps the face: nothing is removed for want of a measure. Numbers are compared as the 32-bit
floats of the ledger, so a predicate selects the same faces in
`SELECT ... FROM faces JOIN photos USING (photo_id) WHERE <predicate>`.
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
from manifests.ledger.records import Face

_REASON = re.compile(r"[a-z][a-z0-9_]{0,39}")

# what a predicate may name: measures of `faces`, and the size of the face's photo in pixels
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

# a face of ones, for what only shows when a predicate is asked
_TRIAL = {
    "nth": pa.array([0]),
    **{name: pa.array([[1.0] * 4 if pa.types.is_list(kind) else 1.0], kind) for name, kind in _OF_FACE.items()},
    **{name: pa.array([1], pa.int32()) for name in _OF_PHOTO},
}

# what an expression over one row is made of, as DuckDB's parser calls it: no subquery, window, star, lambda, parameter
_NODES = {"COMPARISON", "CONJUNCTION", "OPERATOR", "FUNCTION", "CONSTANT", "COLUMN_REF", "CAST", "TYPE", "BETWEEN",
          "CASE"}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """`reason` goes into the row of every face of which `sql` is the first predicate to be true."""

    reason: str
    sql: str


@dataclass(frozen=True)
class FilterSet:
    """Filters in the order in which they are asked."""

    name: str
    version: int
    filters: tuple[Filter, ...]


def check_filters(found: FilterSet) -> None:
    """Raise BadInput for whatever is wrong with a set; each predicate is asked about one made-up face."""
    where = f"The filter set {found.name!r}"
    reasons = [rule.reason for rule in found.filters]
    for rule in found.filters:
        if not _REASON.fullmatch(rule.reason):
            raise BadInput(
                f"{where} has the reason {rule.reason!r}: a reason is 1 to 40 small letters, digits and underscores "
                "and begins with a letter, as in too_small."
            )
        if reasons.count(rule.reason) > 1:
            raise BadInput(f"{where} has the reason {rule.reason} twice: give each filter a reason of its own.")
        try:
            _check_predicate(rule)
        except _Refused as why:
            raise BadInput(f"{where}: the predicate of {rule.reason}, {_short(rule.sql)}, {why}") from None


def columns_of(found: FilterSet) -> set[str]:
    """The columns that a checked set's predicates name."""
    return {name for rule in found.filters for name in columns_of_filter(rule)}


def columns_of_filter(rule: Filter) -> set[str]:
    """The columns that a checked predicate names."""
    return {_name(node) for node in _nodes(_parsed(rule.sql)) if node["class"] == "COLUMN_REF"}


def find_removals(faces: Sequence[Face], sizes: Sequence[tuple[int, int]], found: FilterSet) -> np.ndarray:
    """Which faces each filter removes, asked alone: bool (faces, filters). `sizes` are their photos' (width, height).

    Raises BadInput for a predicate that fails on a face (a cast that overflows, for one).
    """
    broken = np.zeros((len(faces), len(found.filters)), bool)
    if not broken.size:
        return broken
    used = columns_of(found)
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
            answers = _answers(con, found.filters)
        except duckdb.Error:
            for rule in found.filters:  # which one was it
                try:
                    _answers(con, (rule,))
                except duckdb.Error as error:
                    raise BadInput(
                        f"The filter set {found.name!r}: the predicate of {rule.reason}, {_short(rule.sql)}, fails on "
                        f"a face: {_first_line(error)}"
                    ) from None
            raise
    for i, column in enumerate(answers):
        broken[:, i] = column
    return broken


class _Refused(Exception):
    """Why a predicate is refused; the rest of a sentence."""


def _answers(con: duckdb.DuckDBPyConnection, filters: Sequence[Filter]) -> list[np.ndarray]:
    """One bool (n,) a filter. A line break ends what may be a comment at the end of a predicate."""
    asked = ", ".join(f"coalesce((\n{rule.sql}\n), false) AS p{i}" for i, rule in enumerate(filters))
    answers = con.execute(f"SELECT nth, {asked} FROM incoming ORDER BY nth").fetchnumpy()
    return [np.asarray(answers[f"p{i}"], bool) for i in range(len(filters))]


def _check_predicate(rule: Filter) -> None:
    nodes = list(_nodes(_parsed(rule.sql)))
    if strange := sorted({node["class"] for node in nodes} - _NODES):
        raise _Refused(f"is more than an expression over one face ({', '.join(strange).lower()} is not allowed).")
    for node in nodes:
        if node["class"] == "COLUMN_REF" and (len(node["column_names"]) > 1 or _name(node) not in COLUMNS):
            raise _Refused(
                f"names {'.'.join(node['column_names'])}, which is no column of a face: there are {', '.join(COLUMNS)}."
            )
        if node["class"] == "FUNCTION" and node["function_name"].lower() not in _functions():
            raise _Refused(
                f"calls {node['function_name']}: only functions of one row that always answer the same may be called."
            )
    with _connection().cursor() as con:
        con.register("incoming", pa.table(_TRIAL))
        try:
            kind = con.execute(f"DESCRIBE SELECT (\n{rule.sql}\n) AS p FROM incoming").fetchall()[0][1]
            if kind == "BOOLEAN":
                _answers(con, (rule,))
        except duckdb.Error as error:
            raise _Refused(f"cannot be answered: {_first_line(error)}") from None
    if kind != "BOOLEAN":
        raise _Refused(f"gives {kind}, not true or false: compare it with something.")
    _tree(f"SELECT 1 WHERE\n{rule.sql}\n")  # `yaw > 1) OR (yaw < 0` is an expression in brackets alone


@cache
def _parsed(sql: str) -> dict[str, Any]:
    """The syntax tree of one expression. Raises _Refused for what is none."""
    tree = _tree(f"SELECT (\n{sql}\n)")
    query = tree["statements"][0]["node"]
    plain = query["type"] == "SELECT_NODE" and len(query["select_list"]) == 1 and query["from_table"]["type"] == "EMPTY"
    clauses = ("where_clause", "having", "qualify", "sample", "group_expressions", "modifiers")
    if len(tree["statements"]) > 1 or not plain or any(query.get(clause) for clause in clauses):
        raise _Refused("is more than one expression: write only what stands after WHERE.")
    expression: dict[str, Any] = query["select_list"][0]
    return expression


def _tree(statement: str) -> dict[str, Any]:
    """What a statement around a predicate says. Raises _Refused for what is no SQL."""
    with _connection().cursor() as con:
        try:
            said = con.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()[0][0]
        except duckdb.Error as error:
            raise _Refused(f"is no SQL: {_first_line(error)}") from None
    tree: dict[str, Any] = json.loads(said)
    if tree["error"]:
        raise _Refused(f"is no SQL expression: {str(tree.get('error_message')).splitlines()[0]}.")
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a syntax tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


def _name(node: dict[str, Any]) -> str:
    return str(node["column_names"][-1]).lower()


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """A database in memory that reaches no file, no network and no setting: predicates come from whoever wrote them."""
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
    """Functions of one row that answer the same to the same arguments: neither random(), now() nor count()."""
    with _connection().cursor() as con:
        found = con.execute(
            """SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1
               HAVING bool_and(function_type = 'scalar' AND stability = 'CONSISTENT')"""
        ).fetchall()
    return frozenset(name for (name,) in found)


def _short(sql: str) -> str:
    line = " ".join(sql.split())
    return f"`{line if len(line) <= 80 else line[:79] + '…'}`"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
