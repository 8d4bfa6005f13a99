"""Tests the benchmark that measures how much a restorer changes faces that need no restoration."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tests.doubles import curation as doubles
from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
import load_judge
from clean_faces import GOALS, summarise


def make_rows(people: int, psnr: float = 40.0) -> list[dict[str, object]]:
    """Returns rows for forty faces without references, and for twenty of these faces with four references."""
    return [
        {"person": number % people, "references": references, "psnr": psnr, "identity": 0.99}
        for references, faces in ((0, 40), (4, 20))
        for number in range(faces)
    ]


def test_the_goals_need_faces_people_and_quality() -> None:
    table = summarise(make_rows(8))
    assert table["without references"] == {
        "faces": 40, "people": 8, "psnr": 40, "psnr_lowest": 40, "identity": 0.99, "identity_lowest": 0.99,
        "goals_reached": True,
    }  # fmt: skip
    assert table["with references"]["faces"] == 20 and not table["with references"]["goals_reached"]
    assert not summarise(make_rows(GOALS["people"] - 1))["without references"]["goals_reached"]
    assert not summarise(make_rows(8, GOALS["psnr"] - 1))["without references"]["goals_reached"]
    assert "with references" not in summarise(make_rows(8)[:40])


def test_the_recognizer_of_the_training_is_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.faces.load.load_faces", doubles.models)
    own = doubles.models("double").recognizer_sha256()
    with pytest.raises(SystemExit, match="give another --judge"):
        load_judge.load_judge("double", SimpleNamespace(facts={"recognizer": {"sha256": own}}))
    other = load_judge.load_judge("double", SimpleNamespace(facts={"recognizer": {"sha256": "0"}}))
    assert other.recognizer_sha256() == own
