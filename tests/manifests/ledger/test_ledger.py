"""Tests that the ledger returns rows as they were written, and that it writes all rows of a unit or no row.

Also tests that there is only one writer, and that errors are sentences instead of tracebacks.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from datetime import datetime
from functools import partial
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.errors import BadInput, LedgerBroken, LedgerError, LedgerLocked, LedgerMissing, LedgerTooNew
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import (
    KEYS,
    TABLES,
    CleanedVersion,
    Face,
    File,
    Identity,
    KeptOutMark,
    Membership,
    Model,
    Pair,
    Photo,
    Split,
)
from tests.places import REPOSITORY

FACE = Face(
    "f" * 32, "p" * 64, (0.0, 1.0, 2.0, 3.0), (0.5,) * 10, None, 0.9, 30.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.5, 4.0, "0f"
)
ONE_OF = {
    ("File", "status"): ("ok", "dropped", "failed"),
    ("Photo", "status"): ("ok", "dropped", "failed"),
    ("Face", "status"): ("ok", "dropped", "failed"),
    ("Split", "status"): ("ok", "dropped"),
    ("Split", "split"): ("train", "val", "test"),
    ("Pair", "split"): ("train", "val", "test"),
    ("ListEntry", "split"): ("train", "val", "test", None),
    ("Split", "policy"): ("identity", "photos"),
    ("Membership", "source"): ("label", "cluster", "review"),
    ("Model", "role"): ("detector", "recognizer", "landmarks"),
    ("DecisionRow", "faces"): ("{}", '{"faces":[{"photo":"ü","box":[0.5]}]}'),
    ("KeptOutMark", "reason"): ("opted_out", "purged"),
    ("Purge", "removed"): ("{}", '{"photos":2}'),
    ("CleanedVersion", "status"): ("ok", "dropped"),
    ("CleanedVersion", "metrics"): ("{}", '{"identity":0.5}'),
    ("Degradation", "theta"): ('{"version":1}', '{"steps":[1.5,"ü"]}'),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOAT = st.floats(width=32, allow_nan=False)
INT = {"bytes": 64, "mtime_ns": 64, "seed": 64, "decision_id": 64, "undoes": 64, "purge_id": 64}


def a(hint, name: str) -> st.SearchStrategy:
    if hint is str:
        return TEXT
    if hint is bool:
        return st.booleans()
    if hint is float:
        return FLOAT
    if hint is datetime:
        return st.datetimes(datetime(1970, 1, 1))
    if hint is int:
        top = 2 ** (INT.get(name, 32) - 1)
        return st.integers(-top, top - 1)
    if get_origin(hint) is UnionType:
        return st.one_of(*(st.none() if part is NoneType else a(part, name) for part in get_args(hint)))
    assert get_origin(hint) is tuple
    return st.lists(a(get_args(hint)[0], name), max_size=6).map(tuple)


def record_of(kind: type) -> st.SearchStrategy:
    fields = {
        name: st.sampled_from(ONE_OF[kind.__name__, name]) if (kind.__name__, name) in ONE_OF else a(hint, name)
        for name, hint in get_type_hints(kind).items()
    }
    made = st.builds(kind, **fields)
    if kind is KeptOutMark:  # a mark of a face has an embedding and a recognizer, and a mark of a photo has neither
        face = {"kind": st.just("face"), "embedding": st.lists(FLOAT, max_size=6).map(tuple), "recognizer": TEXT}
        photo = {"kind": st.just("photo"), "embedding": st.none(), "recognizer": st.none()}
        return st.one_of(st.builds(kind, **{**fields, **part}) for part in (face, photo))
    if kind is CleanedVersion:  # an accepted version has a file, and a dropped version has a reason
        ok = {"status": st.just("ok"), "sha256": TEXT}
        dropped = {"status": st.just("dropped"), "sha256": st.none(), "reason": TEXT}
        return st.one_of(st.builds(kind, **{**fields, **part}) for part in (ok, dropped))
    # The schema demands a reason for every row whose status is not ok.
    return made.map(lambda row: dataclasses.replace(row, reason=row.reason or "why")) if "reason" in fields else made


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Ledger.open(tmp_path_factory.mktemp("ledger"), write=True) as ledger:
        yield ledger


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_record_comes_back_as_it_went_in(shared, kind, data):
    key = TABLES[kind][1]
    rows = data.draw(
        st.lists(record_of(kind), max_size=4, unique_by=lambda row: [getattr(row, k) for k in key].__repr__())
    )
    shared.record("test", "unit", {}, rows, replace=(kind,))
    found = shared.read_rows(kind)
    by_key = {tuple(getattr(row, k) for k in key): row for row in rows}
    assert {tuple(getattr(row, k) for k in key): row for row in found} == by_key


def test_records_are_the_columns_of_the_schema(shared):
    for kind, (table, key) in TABLES.items():
        assert [field.name for field in dataclasses.fields(kind)] == shared.read_table(table).columns
        assert set(key) <= set(shared.read_table(table).columns)
    tables = shared.query("SELECT table_name FROM information_schema.tables")["table_name"]
    assert set(tables) == set(KEYS) | {"migrations"}


def test_rows_replace_those_of_the_same_key_and_stay_otherwise(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "1", {}, [Identity("a", "Ann"), Identity("b")])
        ledger.record("s", "2", {}, [Identity("b", "Bob", True), Identity("c")])
        assert ledger.read_rows(Identity) == [Identity("a", "Ann"), Identity("b", "Bob", True), Identity("c")]


def test_replace_empties_the_table_first_and_leaves_the_others(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "1", {}, [Identity("a", "Ann"), Identity("b"), Membership("f", "a", 1.0, 0.5)])
        ledger.record("s", "2", {}, [Identity("b", "Bob")], replace=(Identity,))
        assert ledger.read_rows(Identity) == [Identity("b", "Bob")]
        assert len(ledger.read_rows(Membership)) == 1
        ledger.record("s", "3", {}, replace=(Identity, Membership))
        assert ledger.read_rows(Identity) == [] and ledger.read_rows(Membership) == []


def test_forget_removes_the_named_rows(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "1", {}, [Identity(name) for name in "abc"])
        ledger.record("s", "2", {}, [Identity("d")], delete=[("identities", "identity_id", ["a", "c"])])
        ledger.record("s", "3", {}, delete=[("identities", "identity_id", [])])
        assert [row.identity_id for row in ledger.read_rows(Identity)] == ["b", "d"]


def test_replacing_a_table_writes_only_the_rows_that_changed(tmp_path):
    pairs = [Pair(f"t{number}", ("a", "b"), (0.5, 0.25), "random", "train", (None, 3)) for number in range(3)]
    with Ledger.open(tmp_path, write=True) as ledger:

        def list_places() -> dict[str, int]:
            return dict(ledger.query("SELECT target, rowid FROM pairs").iter_rows())

        ledger.record("s", "1", {}, pairs, replace=(Pair,))
        before = list_places()
        changed = dataclasses.replace(pairs[1], gap_days=(2, 3))
        ledger.record("s", "2", {}, [pairs[0], changed, pairs[2]], replace=(Pair,))
        assert ledger.read_rows(Pair) == [pairs[0], changed, pairs[2]]
        after = list_places()
        assert {target for target, place in after.items() if before[target] != place} == {"t1"}


def test_marks_know_their_stage_their_configuration_and_their_clock(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        start = datetime(2020, 1, 1)
        ledger.record("detect", ["a", "b"], {"x": 1}, detail={"n": 2}, started=start)
        ledger.record("detect", [], {"x": 1})
        assert ledger.find_finished("detect", {"x": 1}) == {"a", "b"}
        assert ledger.find_finished("detect", {"x": 2}) == set() == ledger.find_finished("embed", {"x": 1})
        assert ledger.read_detail("detect") == {"n": 2} and ledger.read_detail("embed") == {}
        row = ledger.read_table("stages").row(0, named=True)
        assert row["started"] == start < row["finished"]
        assert "duckdb" in row["tool_versions"] and len(row["config_hash"]) == 64


class Stop(Exception):
    pass


@pytest.mark.parametrize("where", ["_upsert", "_mark"])
def test_an_exception_in_the_middle_leaves_rows_and_mark_unwritten(tmp_path, monkeypatch, where):
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "before", {}, [Identity("a")])
        inner, calls = getattr(Ledger, where), []

        def fail(self, *args):
            calls.append(args)
            if where == "_mark" or len(calls) == 2:
                raise Stop
            inner(self, *args)

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(Ledger, where, fail)
            ledger.record("s", "after", {}, [Identity("b"), Membership("f", "b", 1.0, 1.0)], replace=(Identity,))
        assert ledger.read_rows(Identity) == [Identity("a")] and ledger.read_rows(Membership) == []
        assert ledger.find_finished("s", {}) == {"before"}
        ledger.record("s", "after", {}, [Identity("b")])
        assert ledger.find_finished("s", {}) == {"before", "after"}


def test_a_row_the_schema_refuses_is_one_sentence_and_writes_nothing(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        with pytest.raises(LedgerError, match="Nothing of the stage s was written"):
            ledger.record("s", "u", {}, [Identity("a"), File("file:///x", None, 1, 1, "failed")])
        assert ledger.read_rows(Identity) == [] and ledger.find_finished("s", {}) == set()


def test_a_second_writer_gets_one_sentence(tmp_path):
    code = (
        "import sys; from pathlib import Path; from manifests.ledger.ledger import Ledger\n"
        "from manifests.errors import LedgerLocked\n"
        "for write in (True, False):\n"
        "    try: Ledger.open(Path(sys.argv[1]), write=write)\n"
        "    except LedgerLocked as error: print(error)\n"
    )
    with Ledger.open(tmp_path, write=True):
        again = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY
        )
    assert again.stderr == ""
    lines = again.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("Another process is using") for line in lines)


def test_a_reader_beside_a_writer_of_the_same_process_gets_the_sentence_too(tmp_path):
    with Ledger.open(tmp_path, write=True), pytest.raises(LedgerLocked):
        Ledger.open(tmp_path)


def test_a_missing_ledger_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(LedgerMissing, match="likeness curate"):
        Ledger.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_dataset_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        Ledger.open(tmp_path / "file", write=True)
    with pytest.raises(BadInput, match="is a file"):
        Ledger.open(tmp_path / "file" / "below", write=True)
    with pytest.raises(LedgerMissing):
        Ledger.open(tmp_path / "file")


def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / LEDGER_NAME
    path.write_text("no database at all, but long enough to be looked at\n" * 100)
    for write in (True, False):
        with pytest.raises(LedgerError, match=r"cannot be opened|not a Likeness ledger"):
            Ledger.open(tmp_path, write=write)
    assert path.read_text().startswith("no database")
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerError, match="is not a file"):
        Ledger.open(tmp_path, write=True)


@pytest.mark.parametrize("made", ["CREATE TABLE songs (title VARCHAR)", "CREATE TABLE migrations (name VARCHAR)"])
def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path, made):
    with duckdb.connect(str(tmp_path / LEDGER_NAME)) as con:
        con.execute(made)
    for write in (True, False):
        with pytest.raises(LedgerError):
            Ledger.open(tmp_path, write=write)
    with duckdb.connect(str(tmp_path / LEDGER_NAME)) as con:
        assert len(con.sql("SHOW TABLES").fetchall()) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_half_made_ledger_of_a_killed_process_does_no_harm(tmp_path, monkeypatch, links):
    (tmp_path / f".{LEDGER_NAME}.{os.getpid()}.tmp").write_bytes(b"half of a database")
    if not links:  # with this change, `os.link` fails as on a file system without hard links

        def refuse(*_: object) -> None:
            raise OSError("no hard links")

        monkeypatch.setattr(os, "link", refuse)
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "u", {}, [FACE])
    with Ledger.open(tmp_path, write=True) as ledger:
        assert len(ledger.read_rows(Face)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_NAME]


def test_a_ledger_of_a_newer_version_is_refused(tmp_path):
    Ledger.open(tmp_path, write=True)._con.close()
    with duckdb.connect(str(tmp_path / LEDGER_NAME)) as con:
        con.execute("INSERT INTO migrations VALUES (99, 'from the future', now()::TIMESTAMP)")
    for write in (True, False):
        with pytest.raises(LedgerTooNew, match="upgrade Likeness"):
            Ledger.open(tmp_path, write=write)


def test_a_ledger_without_a_column_of_today_is_refused_with_the_column(tmp_path):
    Ledger.open(tmp_path, write=True)._con.close()
    with duckdb.connect(str(tmp_path / LEDGER_NAME)) as con:
        con.execute("ALTER TABLE faces DROP COLUMN dark")
    for write in (True, False):
        with pytest.raises(LedgerError, match=r"no column faces\.dark\. Curate"):
            Ledger.open(tmp_path, write=write)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO identities VALUES ('a', NULL, false, false)",
        "DELETE FROM faces",
        "DROP TABLE faces",
        "CREATE TEMP TABLE x AS SELECT 1",
        "COPY faces TO 'faces.csv'",
        "ATTACH 'other.db'",
        "SET threads = 1",
        "SELECT 1; DELETE FROM faces",
        "",
        "not SQL",
        "SELECT * FROM nowhere",
        "SELECT 1/'a'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM glob('/etc/*')",
        "SELECT INTERVAL 1 DAY",
        "SELECT union_value(a := 1)",
    ],
)
def test_what_is_no_single_select_is_refused_with_one_line(tmp_path, monkeypatch, sql):
    monkeypatch.chdir(tmp_path)
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "u", {}, [FACE])
    with Ledger.open(tmp_path) as ledger:
        with pytest.raises(BadInput) as refused:
            ledger.query(sql)
        assert "\n" not in str(refused.value) and "ledger" in str(refused.value)
        assert len(ledger.read_rows(Face)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER_NAME]


def test_an_interrupt_inside_a_statement_is_an_interrupt(tmp_path, request):
    # If a shell runs the tests in the background, they ignore SIGINT. This test needs Python's usual handler.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Ledger.open(tmp_path, write=True) as ledger:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        # This statement builds no hash table, because DuckDB cannot stop while it builds one. With two threads, the
        # statement may still run to its end, which takes a few seconds.
        with pytest.raises(KeyboardInterrupt):
            ledger.query("SELECT sum(range) FROM range(1000000000)")

        def interrupted(*_: object) -> None:
            raise duckdb.InvalidInputException("counting the rows of 'incoming' failed: KeyboardInterrupt: <frame>")

        ledger._upsert = interrupted
        with pytest.raises(KeyboardInterrupt):
            ledger.record("s", "u", {}, [FACE])
        assert ledger.read_rows(Face) == [] and ledger.find_finished("s", {}) == set()


def test_selects_of_every_kind_are_answered(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        assert ledger.query("FROM faces").height == 0
        assert ledger.query("WITH a AS (SELECT 1 AS x) SELECT x FROM a")["x"].to_list() == [1]
        assert ledger.query("SELECT ? + ? AS y", 1, 2)["y"].to_list() == [3]
        assert "faces" in ledger.query("SHOW TABLES").to_series().to_list()
        assert ledger.query("DESCRIBE faces").height > 10


def test_embeddings_come_in_the_order_asked_for(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    (tmp_path / "embeddings").mkdir()
    np.save(tmp_path / "embeddings" / "s.npy", vectors)
    rows = [
        dataclasses.replace(FACE, face_id=name, shard="s", shard_row=i, status=status, reason=reason)
        for i, (name, status, reason) in enumerate(
            [("c", "ok", None), ("a", "ok", None), ("b", "dropped", "near_duplicate")]
        )
    ]
    with Ledger.open(tmp_path, write=True) as ledger:
        assert ledger.read_embeddings()[1].shape == (0, 0)
        ledger.record("s", "u", {}, [*rows, dataclasses.replace(FACE, face_id="d")])
        ids, found = ledger.read_embeddings()
        assert ids == ["a", "c"] and (found == vectors[[1, 0]]).all()
        ids, found = ledger.read_embeddings(["b", "a", "b"])
        assert ids == ["b", "a", "b"] and (found == vectors[[2, 1, 2]]).all()
        with pytest.raises(LedgerBroken, match="likeness curate"):
            ledger.read_embeddings(["d"])
        np.save(tmp_path / "embeddings" / "s.npy", vectors[:1])
        with pytest.raises(LedgerBroken, match="too few rows or a wrong number of columns"):
            ledger.read_embeddings()
        (tmp_path / "embeddings" / "s.npy").write_bytes(b"")
        with pytest.raises(LedgerBroken, match=r"s\.npy"):
            ledger.read_embeddings()


def test_embeddings_are_held_once_however_many_shards_there_are(tmp_path):
    (tmp_path / "embeddings").mkdir()
    vectors = np.random.default_rng(0).normal(size=(4096, 1024)).astype(np.float32)
    for shard in range(64):
        np.save(tmp_path / "embeddings" / f"s{shard:02}.npy", vectors[shard::64])
    rows = [
        dataclasses.replace(FACE, face_id=f"{i:04}", shard=f"s{i % 64:02}", shard_row=i // 64, status="ok", reason=None)
        for i in range(len(vectors))
    ]
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "u", {}, rows)
        tracemalloc.start()
        _, found = ledger.read_embeddings()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (found == vectors).all() and most < 1.5 * vectors.nbytes
        np.save(tmp_path / "embeddings" / "s07.npy", vectors[7::64, :5])
        with pytest.raises(LedgerBroken, match=r"s07\.npy has too few rows or a wrong number of columns"):
            ledger.read_embeddings()


def test_a_long_write_is_one_transaction_for_a_killed_process(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from manifests.ledger.ledger import Ledger\n"
        "from manifests.ledger.records import Identity\n"
        "ledger = Ledger.open(Path(sys.argv[1]), write=True)\n"
        "ledger.record('s', 'kept', {}, [Identity('a')])\n"
        "Ledger._mark = lambda self, *rest: os.kill(os.getpid(), 9)\n"
        "ledger.record('s', 'lost', {}, [Identity('b')])\n"
    )
    root = REPOSITORY
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False)
    assert killed.returncode == -9
    for write in (False, True):
        with Ledger.open(tmp_path, write=write) as ledger:
            assert ledger.read_rows(Identity) == [Identity("a")] and ledger.find_finished("s", {}) == {"kept"}


def test_records_used_elsewhere_have_the_defaults_they_promise():
    assert Photo("p", 1, 1, "0").status == "ok" and Model("detector", "f", "s", "0", "l").dim is None
    assert Split("f", "i", "train", "identity").locked is False and Pair("t", (), (), "p", "train").refs == ()


def test_a_broken_ledger_below_a_clock_is_not_in_use(tmp_path):
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / LEDGER_NAME).write_bytes(b"tick" * 4096)
    with pytest.raises(LedgerError, match="cannot be opened") as refused:
        Ledger.open(tmp_path / "clock")
    assert not isinstance(refused.value, LedgerLocked)


def test_the_newest_detail_is_found_when_the_clock_ran_backwards(tmp_path, monkeypatch):
    for number, year in enumerate((2026, 1999, 1970)):
        monkeypatch.setattr("manifests.ledger.ledger.utc_now", lambda year=year: datetime(year, 1, 1))
        with Ledger.open(tmp_path / "dataset", write=True) as ledger:
            ledger.record("group", "all", {"rules": number}, detail={"run": number})
            ledger.record("group", "all", {"rules": number + 10}, detail={"run": number + 10})
            assert ledger.read_details("group")[0] == {"run": number + 10}
