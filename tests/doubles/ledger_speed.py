"""Makes DuckDB plan and run statements for the few rows of a test.

More threads take more processor time and bring nothing. Most optimizers of DuckDB save work only in large tables, and
they take a fifth of the time of a small statement. No optimizer changes the result of a statement.
"""

import functools

import duckdb

# Without these optimizers, some statements would compare every row of a table with every row of another table.
KEPT = ("deliminator", "expression_rewriter", "filter_pullup", "filter_pushdown", "in_clause", "join_order")


def speed_up_ledgers() -> None:
    with duckdb.connect(":memory:", config={"threads": 1}) as con:
        names = [name for (name,) in con.execute("SELECT name FROM duckdb_optimizers()").fetchall()]
    disabled = ",".join(name for name in names if name not in KEPT)
    duckdb.connect = functools.partial(duckdb.connect, config={"threads": 1, "disabled_optimizers": disabled})
