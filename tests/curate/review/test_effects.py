"""Tests that the view shows the same people after a decision as the ledger after the faces are grouped again."""

from __future__ import annotations

from pathlib import Path

import pytest

from curate.decisions.decide import decide
from curate.review.effects import show_decision
from curate.review.view import View, read_view
from manifests.ledger.records import File, Membership
from manifests.runtime.uris import path_of
from tests.doubles.curation import album, curated, install, rows


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch)
    curated(album(tmp_path / "photos", people=4, each=5), tmp_path / "dataset")
    return tmp_path / "dataset"


def find_faces(dataset: Path) -> dict[str, str]:
    """Returns a dict from `<person>/<number>` to the id of the face in this photo."""
    view = read_view(dataset)
    place = {row.photo_id: path_of(row.uri) for row in rows(dataset, File)}
    return {f"{place[f.photo_id].parent.name[6:]}/{place[f.photo_id].stem}": f.face_id for f in view.faces.values()}


def describe(view: View) -> dict[str, tuple]:
    """Returns what the view says about each person and face."""
    people = {
        identity: (person.name, person.locked, tuple(view.lookup.get_members(identity)))
        for identity, person in view.people.items()
    }
    return people | {face: (row.status, row.reason) for face, row in view.faces.items()}


def test_each_decision_has_the_effect_that_grouping_again_has(dataset: Path):
    face = find_faces(dataset)
    person = {row.face_id: row.identity_id for row in rows(dataset, Membership)}
    view = read_view(dataset)
    start, changes = describe(view), []
    for request in (
        {"kind": "rename", "faces": [person[face["0/0"]]], "name": "Ada"},
        {"kind": "merge", "sides": [person[face["0/0"]], person[face["1/0"]]]},
        {"kind": "split", "faces": [face["2/0"], face["2/1"]]},
        {"kind": "split", "faces": [face["3/0"], face["3/1"], face["3/2"]]},
        {"kind": "move", "faces": [face["2/2"]], "to": person[face["0/0"]]},
        {"kind": "drop", "faces": [face["1/4"]]},
        {"kind": "lock", "faces": [face["3/0"]]},
        {"kind": "rename", "faces": [face["3/0"]], "name": "Eve"},
    ):
        decide(dataset, [request])
        after = read_view(dataset)
        changes.append(show_decision(view, after.decisions[-1]))
        assert describe(view) == describe(after), request
    for change in reversed(changes):
        view.take_back(change)
    assert describe(view) == start
