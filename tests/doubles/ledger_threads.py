"""Lets DuckDB use one thread. For the few rows of a test, more threads take more processor time and bring nothing."""

import functools

import duckdb


def use_one_thread() -> None:
    duckdb.connect = functools.partial(duckdb.connect, config={"threads": 1})
