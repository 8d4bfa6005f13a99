"""Old ledgers are brought up to date step by step, each step whole or not at all."""

from dataclasses import replace

import duckdb
import pytest

from manifests.errors import LedgerTooNew
from manifests.ledger.ledger import Ledger
from manifests.ledger.migrations import SCHEMA_VERSION, STEPS, migrate, version_of
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import Face

STEP_2 = (2, "songs", ("CREATE TABLE songs (title VARCHAR)", "INSERT INTO songs VALUES ('one')"))
STEP_3 = (3, "singers", ("ALTER TABLE songs ADD COLUMN singer VARCHAR", "UPDATE songs SET singer = 'Ann'"))
BROKEN = (3, "broken", ("ALTER TABLE songs ADD COLUMN singer VARCHAR", "UPDATE nothing SET x = 1"))


@pytest.fixture
def con():
    with duckdb.connect() as con:
        migrate(con, "here", newest=1)
        yield con


def older(con, version: int) -> None:
    """Take from the newest tables what came after `version`."""
    if version < 7:
        con.execute("ALTER TABLE faces DROP COLUMN crop_sha256")
    if version < 6:
        con.execute("DROP TABLE trained_on")
        con.execute("DROP TABLE versions")
    if version < 5:
        con.execute("DROP TABLE given")
    if version < 4:
        con.execute("DROP TABLE purges")
        con.execute("DROP TABLE kept_out")
    if version < 3:
        con.execute("DROP TABLE labels")
        con.execute("ALTER TABLE decisions DROP COLUMN undoes")
        con.execute("ALTER TABLE decisions DROP COLUMN name")
    if version < 2:
        con.execute("ALTER TABLE faces DROP COLUMN noise")


def history(con) -> list[tuple[int, str]]:
    return con.sql("SELECT version, purpose FROM migrations ORDER BY version").fetchall()


def test_a_new_ledger_is_made_at_the_newest_version():
    with duckdb.connect() as con:
        for _ in range(2):
            migrate(con, "here")
            assert history(con) == [(SCHEMA_VERSION, "created")] and version_of(con) == SCHEMA_VERSION


def test_the_steps_end_at_the_newest_version_in_order():
    versions = [version for version, _, _ in STEPS]
    assert versions == sorted(set(versions)) and versions[-1] == SCHEMA_VERSION


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


def test_a_face_of_version_1_has_no_noise_and_keeps_the_rest(tmp_path):
    face = Face("f", "p", (0.0,) * 4, (0.0,) * 10, None, 0.5, 40.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 3.0, "0", noise=2.0)
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("test", "all", {}, [face])
    with duckdb.connect(str(tmp_path / LEDGER_NAME)) as con:
        older(con, 1)
        con.execute("UPDATE migrations SET version = 1")
    with Ledger.open(tmp_path) as ledger:  # only read, an old ledger stays as it is
        assert ledger.rows(Face) == [replace(face, noise=None)]
    with Ledger.open(tmp_path, write=True) as ledger:
        assert ledger.rows(Face) == [replace(face, noise=None)]
        assert ledger.query("SELECT max(version) AS v FROM migrations")["v"][0] == SCHEMA_VERSION
        ledger.record("test", "all", {}, [face])
        assert ledger.rows(Face) == [face]


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_old_ledger_that_is_brought_up_to_date_is_as_a_new_one(con, version):
    older(con, version)
    con.execute("UPDATE migrations SET version = ?", [version])
    migrate(con, "here")
    columns = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
    with duckdb.connect() as new:
        migrate(new, "there")
        assert con.sql(columns).fetchall() == new.sql(columns).fetchall()
