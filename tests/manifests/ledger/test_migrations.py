"""Tests that a new ledger has the version of the schema, and that newer ledgers and other databases are refused."""

import duckdb
import pytest

from manifests.errors import LedgerError, LedgerTooNew
from manifests.ledger import migrations
from manifests.ledger.migrations import SCHEMA_VERSION, create_schema, read_version


def history(con) -> list[tuple[int, str]]:
    return con.sql("SELECT version, purpose FROM migrations ORDER BY version").fetchall()


def test_a_new_ledger_is_made_at_version_1_and_only_once():
    with duckdb.connect() as con:
        assert read_version(con) == 0
        for _ in range(2):
            create_schema(con, "here")
            assert history(con) == [(1, "created")] and read_version(con) == SCHEMA_VERSION == 1


def test_a_newer_ledger_is_refused_in_one_sentence_and_stays_as_it_is():
    with duckdb.connect() as con:
        create_schema(con, "here")
        con.execute("INSERT INTO migrations VALUES (7, 'later', now()::TIMESTAMP)")
        with pytest.raises(
            LedgerTooNew, match=r"^here has schema version 7, .* up to 1: upgrade Likeness to open this ledger\.$"
        ):
            create_schema(con, "here")
        assert history(con) == [(1, "created"), (7, "later")]


def test_a_database_of_another_program_is_refused_and_stays_as_it_is():
    with duckdb.connect() as con:
        con.execute("CREATE TABLE songs (title VARCHAR)")
        with pytest.raises(LedgerError, match=r"^here is a database of another program: name another folder\.$"):
            create_schema(con, "here")
        assert con.sql("SELECT table_name FROM information_schema.tables").fetchall() == [("songs",)]


def test_a_schema_that_fails_halfway_leaves_an_empty_database(monkeypatch):
    monkeypatch.setattr(
        migrations, "_CREATE_MIGRATIONS", migrations._CREATE_MIGRATIONS + "; CREATE TABLE files (uri VARCHAR)"
    )
    with duckdb.connect() as con:
        with pytest.raises(duckdb.Error):
            create_schema(con, "here")
        assert con.sql("SELECT 1 FROM information_schema.tables").fetchall() == [] and read_version(con) == 0
