"""Tests the decision to use a face that a filter dropped: what it needs, when it takes effect, and how it ends."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from curate.decisions import cli
from curate.decisions.decide import apply_decisions_of, decide
from curate.decisions.log_entries import read_decision_file
from curate.decisions.record import record_decisions
from curate.face_filters import STRICT
from curate.review.people.face_facts import describe_face_fully
from curate.review.session.view import read_view
from curate.review.unused.unused_items import read_items
from manifests.card import render_card
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Face, File, Identity, Membership, Photo
from manifests.report.build_report import build_report
from manifests.runtime.uris import path_of
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import album, contents, curated, install, photo, rows, save
from tests.doubles.exports import change


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a dataset of three people with three photos each. The face in tiny.png shows person 0, and is too small."""
    folder = tmp_path_factory.mktemp("accept")
    photos = album(folder / "photos", people=3, each=3)
    save(photos / "tiny.png", photo([0], 7, side=40))
    save(photos / "person1" / "copy.jpg", photo([1], 0))
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        curated(photos, folder / "dataset")
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch)
    return Path(shutil.copytree(made / "dataset", tmp_path / "dataset"))


def find_tiny(dataset: Path) -> Face:
    (photo_id,) = {row.photo_id for row in rows(dataset, File) if path_of(row.uri).name == "tiny.png"}
    (face,) = [face for face in rows(dataset, Face) if face.photo_id == photo_id]
    return face


def call(dataset: Path, *words: str) -> Any:
    app = typer.Typer()
    app.command()(cli.decide)
    return CliRunner().invoke(app, [str(dataset), *words])


def test_an_accepted_face_is_used_by_the_next_curation_until_the_decision_is_taken_back(
    made: Path, dataset: Path, tmp_path: Path
) -> None:
    before, tiny = contents(dataset), find_tiny(dataset)
    assert (tiny.reason, tiny.crop_sha256, tiny.shard) == ("too_small", None, None)
    told = call(dataset, "accept", tiny.face_id[:8]).stdout.splitlines()
    assert told[0].startswith("Decision 1 (accept): 1 face") and told[0].endswith(" is used in spite of the filters.")
    assert told[1:] == ["Note: The next `likeness curate` uses 1 face that a filter dropped."]
    waiting = contents(dataset)
    assert {name for name in before if waiting[name] != before[name]} == {"decisions", "stages"}
    assert "; decision 1 (accept: the next `likeness curate` uses the face)" in explain_photo(dataset, "tiny.png")[0][2]
    listed = call(dataset, "list").stdout
    assert "dropped, too_small; the next `likeness curate` uses the face" in listed
    (tmp_path / "log.jsonl").write_text(call(dataset, "list", "--json").stdout)

    summary = curated(made / "photos", dataset)
    used = find_tiny(dataset)
    assert (
        (used.status, used.reason) == ("ok", None) and used.crop_sha256 and used.shard and check_ledger(dataset) == []
    )
    person = {row.face_id: row.identity_id for row in rows(dataset, Membership)}
    in_person0 = [row.photo_id for row in rows(dataset, File) if "/person0/" in row.uri]
    assert {person[used.face_id]} == {
        person[face.face_id] for face in rows(dataset, Face) if face.photo_id in in_person0
    }
    sentence = "Decisions overrule the filters and keep 1 face in use."
    assert sentence in summary.notices and "too_small" not in summary.faces
    with Ledger.open(dataset) as ledger:
        counts = ledger.read_detail("screen")
        assert (counts["kept"], counts["kept_by_decision"], counts["filters"][0]["alone"]) == (11, 1, 0)
        assert "decisions overruled the filters and kept 1 face in use" in render_card(ledger)
    line = explain_photo(dataset, "tiny.png")[0][2]
    assert ": ok, identity p-" in line
    assert line.endswith("; decision 1 (accept: without this decision, the filter too_small drops the face)")
    assert "A filter would drop 1 face of the kept faces" in build_report(dataset).read_text(encoding="utf-8")
    view = read_view(dataset)
    why = describe_face_fully(view, used)["why"]
    assert why.startswith("The faces look alike") and why.endswith(
        "No filter drops the face, because a decision accepts it."
    )
    assert not view.find_decided_people()  # the decision is about the face, and not about its person
    again = decide(dataset, read_decision_file(tmp_path / "log.jsonl"))
    assert again.decisions == () and "already contains this decision" in again.notices[0]
    in_use = contents(dataset)

    assert call(dataset, "undo", "1").stdout.splitlines()[1:] == [
        "Note: The next `likeness curate` applies the filters to 1 face again."
    ]
    assert contents(dataset)["memberships"] == in_use["memberships"]
    curated(made / "photos", dataset)
    dropped = find_tiny(dataset)
    embedding = {"shard": None, "shard_row": None, "embedding_device": None}  # the embedding stays
    assert replace(dropped, crop_sha256=None, **embedding, phash="") == replace(tiny, phash="")
    assert contents(dataset)["memberships"] == before["memberships"] and check_ledger(dataset) == []


def test_a_drop_takes_precedence_and_stricter_filters_do_not_matter(made: Path, dataset: Path) -> None:
    tiny, other = find_tiny(dataset), next(face for face in rows(dataset, Face) if face.status == "ok")
    decide(dataset, [{"kind": "accept", "faces": [tiny.face_id]}])
    curated(made / "photos", dataset, screen=STRICT)
    assert {face.face_id for face in rows(dataset, Face) if face.status == "ok"} == {tiny.face_id}
    decide(dataset, [{"kind": "drop", "faces": [tiny.face_id]}])
    curated(made / "photos", dataset)
    assert find_tiny(dataset).reason == "decided" and other in [replace(row) for row in rows(dataset, Face)]
    with pytest.raises(BadInput, match=r"is not in use because of decision 2 \(drop\)\. Undo this decision"):
        decide(dataset, [{"kind": "accept", "faces": [tiny.face_id]}])


def test_what_cannot_be_accepted_is_refused_with_a_sentence(dataset: Path) -> None:
    tiny = find_tiny(dataset)
    decide(dataset, [{"kind": "drop", "faces": [next(f.face_id for f in rows(dataset, Face) if f.status == "ok")]}])
    faces = {face.reason: face for face in rows(dataset, Face)}
    refused = {
        faces[None].face_id: "is in use already. Leave this face out.",
        rows(dataset, Identity)[0].identity_id: "are in use already. Give a face that is not in use.",
        faces["decided"].face_id: "is not in use because of decision 1 (drop). Undo this decision instead.",
        faces["near_duplicate"].face_id: "To use this face, give: prefer",
        "abcdef012345": "There is no face with the id abcdef012345.",
    }
    log = rows(dataset, DecisionRow)
    for name, sentence in refused.items():
        with pytest.raises(BadInput) as error:
            decide(dataset, [{"kind": "accept", "faces": [name]}])
        assert sentence in str(error.value)
    row = next(row for row in rows(dataset, Photo) if row.photo_id == tiny.photo_id)
    file = next(row for row in rows(dataset, File) if row.photo_id == tiny.photo_id)
    for changes, cause in (
        ([replace(tiny, reason="no_consent"), replace(row, status="dropped", reason="no_consent")], "consent"),
        ([replace(tiny, reason="opted_out")], "its person opted out"),
        ([replace(tiny, status="failed", reason="file_vanished_or_changed")], "its photo is gone"),
        ([replace(tiny, reason="not_found_again")], "no filter dropped the face"),
        ([tiny, row, replace(file, status="dropped", reason="file_gone")], "its photo is gone"),
    ):
        change(dataset, changes)
        with pytest.raises(BadInput, match=f"cannot be accepted, because .*{cause}.* Leave this face out"):
            decide(dataset, [{"kind": "accept", "faces": [tiny.face_id]}])
    assert rows(dataset, DecisionRow) == log


def test_a_face_whose_photo_loses_its_consent_is_not_promised(dataset: Path) -> None:
    tiny = find_tiny(dataset).face_id
    no_consent = {"kind": "consent", "photos": [tiny], "consent": "no"}
    record_decisions(dataset, [no_consent])
    with Ledger.open(dataset) as ledger:
        (item,) = read_items(ledger, "face", "too_small", 0, 9)
    assert not item.can_show and not item.can_accept
    with pytest.raises(BadInput, match="because the consent for its photo is refused"):
        decide(dataset, [{"kind": "accept", "faces": [tiny]}])
    decide(dataset, [{"kind": "undo", "undoes": 1}])
    outcome = decide(dataset, [{"kind": "accept", "faces": [tiny]}, no_consent])
    assert not any("The next `likeness curate`" in notice for notice in outcome.notices)


def test_a_photo_that_vanished_later_is_said(made: Path, dataset: Path) -> None:
    decide(dataset, [{"kind": "accept", "faces": [find_tiny(dataset).face_id]}])
    hidden = (made / "photos" / "tiny.png").rename(made / "tiny.png")
    summary = curated(made / "photos", dataset)
    hidden.rename(made / "photos" / "tiny.png")
    assert find_tiny(dataset).reason == "file_vanished_or_changed"
    assert any("1 face that is named in decision 1 is not in use now." in notice for notice in summary.notices)


def test_decisions_that_change_no_person_are_applied_without_a_grouping(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, before = find_tiny(dataset).face_id, rows(dataset, Membership)
    monkeypatch.setattr("curate.decisions.decide.compute_groups", None)
    record_decisions(dataset, [{"kind": "accept", "faces": [tiny]}])
    outcome = apply_decisions_of(dataset)
    assert outcome.applied == 1 and outcome.only_filters and not outcome.only_names
    assert outcome.notices == ("The next `likeness curate` uses 1 face that a filter dropped.",)
    record_decisions(dataset, [{"kind": "undo", "undoes": 1}])
    assert call(dataset, "apply").stdout == "The command applied 1 decision.\n"
    record_decisions(dataset, [{"kind": "accept", "faces": [tiny]}])
    record_decisions(dataset, [{"kind": "rename", "faces": [before[0].identity_id], "name": "Ann"}])
    assert call(dataset, "apply").stdout.splitlines() == [
        "The command applied 2 decisions.",
        f"{before[0].identity_id} is now called Ann.",
        "Note: The next `likeness curate` uses 1 face that a filter dropped.",
    ]
    assert rows(dataset, Membership) == before
