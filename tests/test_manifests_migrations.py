"""Old ledgers are brought up to date step by step, each step whole or not at all."""

import duckdb
import pytest

from manifests.errors import LedgerTooNew
from manifests.migrations import SCHEMA_VERSION, STEPS, migrate, version_of

STEP_2 = (2, "songs", ("CREATE TABLE songs (title VARCHAR)", "INSERT INTO songs VALUES ('one')"))
STEP_3 = (3, "singers", ("ALTER TABLE songs ADD COLUMN singer VARCHAR", "UPDATE songs SET singer = 'Ann'"))
BROKEN = (3, "broken", ("ALTER TABLE songs ADD COLUMN singer VARCHAR", "UPDATE nothing SET x = 1"))


@pytest.fixture
def con():
    with duckdb.connect() as con:
        migrate(con, "here", newest=1)
        yield con


def history(con) -> list[tuple[int, str]]:
    return con.sql("SELECT version, purpose FROM migrations ORDER BY version").fetchall()


def test_a_new_ledger_is_made_at_the_newest_version():
    con = duckdb.connect()
    migrate(con, "here")
    assert history(con) == [(SCHEMA_VERSION, "created")] and version_of(con) == SCHEMA_VERSION
    migrate(con, "here")
    assert history(con) == [(SCHEMA_VERSION, "created")]


def test_the_steps_end_at_the_newest_version_in_order():
    versions = [version for version, _, _ in STEPS]
    assert versions == list(range(2, SCHEMA_VERSION + 1))


def test_steps_run_in_order_each_with_its_row_and_only_once(con):
    for _ in range(2):
        migrate(con, "here", (STEP_2, STEP_3), newest=3)
        assert history(con) == [(1, "created"), (2, "songs"), (3, "singers")]
        assert con.sql("SELECT * FROM songs").fetchall() == [("one", "Ann")]


def test_a_step_that_fails_leaves_nothing_of_itself_and_all_before_it(con):
    with pytest.raises(duckdb.Error):
        migrate(con, "here", (STEP_2, BROKEN), newest=3)
    assert history(con) == [(1, "created"), (2, "songs")]
    assert con.sql("SELECT * FROM songs").columns == ["title"]
    migrate(con, "here", (STEP_2, STEP_3), newest=3)
    assert version_of(con) == 3


def test_newer_is_refused_before_any_step(con):
    con.execute("INSERT INTO migrations VALUES (7, 'later', now()::TIMESTAMP)")
    with pytest.raises(LedgerTooNew, match=r"schema version 7.*up to 3"):
        migrate(con, "here", (STEP_2, STEP_3), newest=3)
    assert len(history(con)) == 2


def test_a_ledger_of_version_1_learns_of_decisions_and_labels(con):
    con.execute("DROP TABLE decisions")
    con.execute("DROP TABLE labels")
    con.execute(
        "CREATE TABLE decisions (decision_id BIGINT PRIMARY KEY, kind VARCHAR NOT NULL, faces JSON NOT NULL, "
        "made TIMESTAMP NOT NULL)"
    )
    migrate(con, "here", [step for step in STEPS if step[0] == 2], newest=2)
    with duckdb.connect() as new:
        migrate(new, "there")
        for table in ("decisions", "labels"):
            columns = "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = ?"
            assert con.execute(columns, [table]).fetchall() == new.execute(columns, [table]).fetchall()
