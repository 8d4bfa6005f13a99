"""Tests the reason of a drop: it is checked, kept, and shown on every page and in every list that explains a drop."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from curate.decisions import cli
from curate.decisions.decide import decide
from curate.decisions.log_entries import read_decision_file
from curate.review.people.face_facts import describe_face_fully
from curate.review.session.view import read_view
from curate.review.unused.unused_items import read_items
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Face
from manifests.report.build_report import build_report
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import curated_album, rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a dataset of three people with three photos each. Decision 1 drops two faces for a reason."""
    _, dataset = curated_album(tmp_path_factory.mktemp("reason"), people=3, each=3)
    faces = [face.face_id for face in rows(dataset, Face)]
    assert call(dataset, "drop", *faces[:2], "--reason", "  <b>a statue</b> ").exit_code == 0
    return dataset


def call(dataset: Path, *words: str) -> Any:
    app = typer.Typer()
    app.command()(cli.decide)
    return CliRunner().invoke(app, [str(dataset), *words])


def test_the_reason_is_shown_everywhere(dataset: Path, tmp_path: Path) -> None:
    assert [(row.kind, row.name) for row in rows(dataset, DecisionRow)] == [("drop", "<b>a statue</b>")]
    dropped = [face for face in rows(dataset, Face) if face.reason == "decided"]
    assert len(dropped) == 2 and {face.status for face in dropped} == {"dropped"}
    assert "drop (<b>a statue</b>), 2 faces" in call(dataset, "list").stdout
    text = call(dataset, "list", "--json").stdout
    assert json.loads(text)["reason"] == "<b>a statue</b>" and "name" not in json.loads(text)
    lines, (found,) = explain_photo(dataset, dropped[0].face_id)
    assert lines[2].endswith(": dropped, decided; decision 1 (drop: <b>a statue</b>)")
    assert found["faces"][0]["drop_reason"] == "<b>a statue</b>" and found["faces"][0]["decisions"] == [(1, "drop")]
    with Ledger.open(dataset) as ledger:
        items = read_items(ledger, "face", "decided", 0, 9)
    drops = [item.decision for item in items if item.decision is not None and not item.can_accept]
    assert [(drop.number, drop.name) for drop in drops] == [(1, "<b>a statue</b>")] * 2
    facts = describe_face_fully(read_view(dataset), dropped[0])
    assert facts["why"] == "The face is not in use: decided (<b>a statue</b>)."
    report = build_report(dataset)
    page = (report.parent / "dropped.html").read_text(encoding="utf-8")
    assert page.count("reason: &lt;b&gt;a statue&lt;/b&gt;") == 2
    assert "drop (&lt;b&gt;a statue&lt;/b&gt;)" in report.read_text(encoding="utf-8")
    (tmp_path / "log.jsonl").write_text(text)
    told = decide(dataset, read_decision_file(tmp_path / "log.jsonl"))
    assert told.decisions == () and "already contains this decision as decision 1" in told.notices[0]


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("", "The reason is ''. Give a reason on one line, of at most 255 characters."),
        ("a\nb", "The reason is 'a\\nb'. Give a reason on one line"),
        ("x" * 256, "of at most 255 characters"),
        (7, "The reason is 7. Give a reason on one line"),
    ],
)
def test_a_reason_that_is_no_line_is_refused(dataset: Path, reason: object, sentence: str) -> None:
    face = next(face.face_id for face in rows(dataset, Face) if face.status == "ok")
    with pytest.raises(BadInput, match=re.escape(sentence)):
        decide(dataset, [{"kind": "drop", "faces": [face], "reason": reason}])
    assert len(rows(dataset, DecisionRow)) == 1


def test_only_a_drop_has_a_reason(dataset: Path) -> None:
    face = next(face.face_id for face in rows(dataset, Face) if face.status == "ok")
    with pytest.raises(BadInput, match="A lock has no key 'reason'"):
        decide(dataset, [{"kind": "lock", "faces": [face], "reason": "x"}])
    refused = call(dataset, "lock", face, "--reason", "x").exception
    assert "Only the action drop takes --reason." in str(refused)
    dry = call(dataset, "drop", face, "--dry-run").stdout
    assert "would record decision 2 (drop): 1 face" in dry and "is taken out of use." in dry
