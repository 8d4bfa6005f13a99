"""Tests `manifest show | query | check | why`, with output as text and as JSON."""

import json

import pytest
import typer
from typer.testing import CliRunner

from manifests import cli
from manifests.errors import BadInput, LedgerMissing
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Identity
from tests.doubles.curation import album, curated, install


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    photos = album(folder / "photos", people=3, each=2)
    (photos / "letter.jpg").write_text("Dear photograph")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        curated(photos, folder / "dataset")
    return folder / "dataset"


def call(command, *arguments: object):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_show_counts_everything_with_its_reason(dataset):
    result = call(cli.show, dataset, "--json")
    assert result.exit_code == 0
    found = {(row["kind"], row["status"], row["reason"]): row["n"] for row in json.loads(result.stdout)}
    assert found["files", "ok", ""] == 6 and found["files", "failed", "not_an_image"] == 1
    assert found["faces", "ok", ""] == 6 and found["identities", "with two faces or more", ""] == 3
    assert sum(n for (kind, *_), n in found.items() if kind == "splits") == 6
    assert "not_an_image" in call(cli.show, dataset).stdout


def test_query_prints_a_table_or_json(dataset):
    sql = "SELECT status, count(*) AS n FROM files GROUP BY 1 ORDER BY 1"
    assert json.loads(call(cli.query, dataset, sql, "--json").stdout) == [
        {"status": "failed", "n": 1},
        {"status": "ok", "n": 6},
    ]
    table = call(cli.query, dataset, sql).stdout
    assert "failed" in table and "6" in table
    sql = "SELECT [1.5] AS a, NULL AS b, DATE '2020-01-01' AS c"
    assert json.loads(call(cli.query, dataset, sql, "--json").stdout) == [{"a": [1.5], "b": None, "c": "2020-01-01"}]
    assert isinstance(call(cli.query, dataset, "DELETE FROM faces").exception, BadInput)


def test_what_is_piped_is_whole(dataset, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = "x" * 300
    said = call(cli.query, dataset, f"SELECT '{long}' AS a, '{long}' AS b").stdout
    assert said.count(long) == 2 and "…" not in said
    assert all(len(line) < 100 for line in call(cli.query, dataset, "SELECT 1 AS a").stdout.splitlines())


def test_check_exits_with_1_where_something_is_wrong(dataset):
    well = call(cli.check, dataset)
    assert well.exit_code == 0 and "nothing leaks" in well.stdout
    assert json.loads(call(cli.check, dataset, "--json").stdout) == {"ok": True, "wrong": []}
    orphan = dataset / "faces" / "ee" / f"{'e' * 32}.png"
    orphan.parent.mkdir()
    orphan.write_bytes(b"")
    try:
        ill = call(cli.check, dataset, "--json")
        assert ill.exit_code == 1 and json.loads(ill.stdout)["wrong"] == [
            f"this crop belongs to no face: faces/ee/{'e' * 32}.png"
        ]
        assert "Problems in total: 1." in call(cli.check, dataset).stdout
    finally:
        orphan.unlink()


def test_why_answers_and_its_json_is_rows(dataset):
    result = call(cli.why, dataset, "letter.jpg")
    assert result.exit_code == 0 and "failed, not_an_image" in result.stdout
    (row,) = json.loads(call(cli.why, dataset, "letter.jpg", "--json").stdout)
    assert row["reason"] == "not_an_image" and row["faces"] == []


def test_a_folder_without_a_ledger_is_a_sentence(tmp_path):
    for command, *more in ((cli.show,), (cli.query, "SELECT 1"), (cli.check,), (cli.why, "x")):
        assert isinstance(call(command, tmp_path, *more).exception, LedgerMissing)


def test_an_empty_ledger_is_shown_as_nothing(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("s", "u", {}, [Identity("a")])
    assert json.loads(call(cli.show, tmp_path, "--json").stdout) == []
    assert call(cli.show, tmp_path).exit_code == 0
