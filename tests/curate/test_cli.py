"""Tests `likeness curate`: the summary as text and as JSON, and a dry run that writes nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from curate import cli
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.ledger.records import Pair, Split
from manifests.why.explain_photo import explain_photo
from tests.doubles.commands.command_tables import call_curate
from tests.doubles.curation import album, install, photo, rows, save


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)


def test_the_summary_is_told(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=5, each=2), tmp_path / "dataset"
    (photos / "letter.jpg").write_text("x")
    result = call_curate(photos, "--out", dataset, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "files    10 ok, 1 not_an_image" in result.stdout and "people   5 with two photos or more" in result.stdout
    assert "models   double" in result.stdout and f"likeness train {dataset}" in result.stdout
    told = json.loads(call_curate(photos, "--out", dataset, "--workers", 1, "--json").stdout)
    assert told["faces"] == {"ok": 10} and sum(told["pairs"].values()) == 10


def test_options_reach_their_stage(tmp_path):
    photos = album(tmp_path / "photos", people=3, each=2)
    result = call_curate(photos, "--out", tmp_path / "d", "--workers", 1, "--json", "--min-inter-ocular", 200)
    assert json.loads(result.stdout)["faces"] == {"too_small": 6}
    result = call_curate(
        photos, "--out", tmp_path / "d", "--workers", 1, "--json", "--split-by", "photos", "--same-person", -1
    )
    told = json.loads(result.stdout)
    assert told["identities"] == 1 and told["threshold"] == -1 and told["pairs"]["test"] > 0
    assert isinstance(call_curate(photos, "--out", tmp_path / "d", "--workers", 0).exception, BadInput)


def test_the_options_of_pairs_reach_the_ledger_and_who_has_no_pair_is_counted(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=5, each=3), tmp_path / "d"
    save(photos / "more.png", photo([0], 7))
    told = json.loads(call_curate(photos, "--out", dataset, "--workers", 1, "--json").stdout)
    assert told["unpaired"] == {} and {row.policy for row in rows(dataset, Pair)} == {"random"}
    options = ("--pairs", "diverse", "--max-references", 2)
    told = json.loads(call_curate(photos, "--out", dataset, "--workers", 1, "--json", *options).stdout)
    assert {(row.policy, len(row.refs)) for row in rows(dataset, Pair)} == {("diverse", 2)}
    options = ("--min-photos", 4, "--min-references", 2)
    result = call_curate(photos, "--out", dataset, "--workers", 1, *options)
    assert "no targets: 12 too_few_photos" in result.stdout and len(rows(dataset, Pair)) == 4
    assert len(rows(dataset, Split)) == 16 and check_ledger(dataset) == []
    assert "too_few_photos, this person has 3 and --min-photos is 4" in explain_photo(dataset, "person1/0.png")[0][2]
    call_curate(photos, "--out", dataset, "--workers", 1, "--pairs", "window:1.5-2")
    assert "too_few_references" in explain_photo(dataset, "person1/0.png")[0][2] and rows(dataset, Pair) == []
    assert (
        "Give a wider window than --pairs window:1.5-2."
        in call_curate(photos, "--out", dataset, "--pairs", "window:1.5-2").stdout
    )


def test_the_windows_of_another_recognizer_are_noted(tmp_path):
    photos = album(tmp_path / "photos", people=3, each=2)
    for faces, pairs, noted in (("dlib", "window", 1), ("dlib", "window:0-0.05", 0), ("double", "window", 0)):
        options = ("--out", tmp_path / faces, "--workers", 1, "--faces", faces, "--pairs", pairs)
        assert call_curate(photos, *options).stdout.count("uses distances of ArcFace") == noted


def test_senseless_pairs_are_refused_before_anything_is_done(tmp_path):
    for options in (("--pairs", "best"), ("--min-photos", 1), ("--min-references", 17)):
        for dry in ((), ("--dry-run",)):
            assert isinstance(call_curate(tmp_path, "--out", tmp_path / "d", *options, *dry).exception, BadInput)
    assert not (tmp_path / "d").exists()


def test_filters_by_name_and_by_file(tmp_path):
    photos, mine = album(tmp_path / "photos", people=3, each=2), tmp_path / "mine.toml"
    mine.write_text('name = "mine"\nversion = 1\n[[filter]]\nreason = "narrow"\nsql = "width < 1000"\n')
    told = [photos, "--out", tmp_path / "d", "--workers", 1, "--json", "--filters"]
    assert json.loads(call_curate(*told, mine).stdout)["faces"] == {"narrow": 6}
    assert json.loads(call_curate(*told, "strict").stdout)["faces"] == {"enlarged": 6}
    assert json.loads(call_curate(*told, "default").stdout)["faces"] == {"ok": 6}
    assert json.loads(call_curate(*told, mine, "--min-inter-ocular", 999).stdout)["faces"] == {"too_small": 6}
    for dry in ([], ["--dry-run"]):
        assert isinstance(call_curate(*told, "lenient", *dry).exception, BadInput)


def test_a_dry_run_writes_nothing(tmp_path):
    photos = album(tmp_path / "photos", people=2, each=2)
    (photos / "up").symlink_to(photos)
    before = sorted(os.walk(tmp_path))
    result = call_curate(photos, "--out", tmp_path / "dataset", "--dry-run")
    assert result.exit_code == 0 and "would read 4 files, skip 1 path" in result.stdout
    assert sorted(os.walk(tmp_path)) == before
    assert isinstance(call_curate(tmp_path / "nowhere", "--out", tmp_path / "d", "--dry-run").exception, BadInput)


def test_notices_and_what_was_set_aside_are_told():
    from curate.run.summary import Summary

    summary = Summary("dlib", {}, {}, {}, 0, 0, 0, {"train": 0}, 3, 0.925, 0.003, ("Look here.",))
    told = cli.describe_summary(summary, Path("my set"))
    assert "3 faces set aside" in told and told.endswith("Note: Look here.") and "files    none" in told
    leaking = replace(summary, leaking={"train": (2, 8)})
    assert "`likeness leaks 'my set'` lists the leaks" in cli.describe_summary(leaking, Path("my set"))
