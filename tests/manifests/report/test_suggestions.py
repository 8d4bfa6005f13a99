"""Tests the suggestions to merge and to split: planted errors come first, and decided cases do not come again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curate.decisions.decide import decide
from curate.decisions.lookup.face_lookup import FaceLookup
from curate.people.pending.people_now import PeopleNow
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Identity, Membership
from manifests.report.build_report import build_report
from manifests.report.suggestions import (
    divide_faces,
    find_merges,
    find_splits,
    read_embedded_faces,
    read_user_decisions,
)
from tests.doubles.curation import curated_album, install, rows
from tests.doubles.exports import change


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a dataset of five people with three photos each."""
    install(monkeypatch)
    _, dataset = curated_album(tmp_path, people=5)
    return dataset


def suggestions(dataset: Path):
    with Ledger.open(dataset) as ledger:
        faces, decisions = read_embedded_faces(ledger), read_user_decisions(ledger)
        threshold = ledger.read_detail("group").get("threshold", -1.0)
        return find_splits(faces, decisions, threshold), find_merges(faces, decisions)


def faces_of(dataset: Path) -> dict[str, list[str]]:
    people: dict[str, list[str]] = {}
    for row in rows(dataset, Membership):
        people.setdefault(row.identity_id, []).append(row.face_id)
    return people


def join(dataset: Path, one: str, other: str) -> None:
    """Puts the faces of two people into one identity, as a wrong grouping would do."""
    members = [row for row in rows(dataset, Membership) if row.identity_id == other]
    change(dataset, [replace(row, identity_id=one) for row in members])


def test_two_people_in_one_group_are_suggested_with_the_faces_of_the_smaller_part(dataset: Path) -> None:
    people = faces_of(dataset)
    one, other = sorted(people)[:2]
    assert suggestions(dataset)[0] == []
    third = rows(dataset, Membership)
    join(dataset, one, other)
    stray = next(row for row in third if row.identity_id == other)
    # After this change, the wrong part of the person has two faces, and the rest has three faces.
    change(dataset, [replace(stray, identity_id=sorted(people)[2])])
    (found,) = suggestions(dataset)[0]
    assert found.person == one and set(found.part) == set(people[other]) - {stray.face_id}
    assert set(found.rest) == set(people[one]) and found.between < found.within
    page = (build_report(dataset).parent / "suggestions.html").read_text(encoding="utf-8")
    command = re.search(r"decide dataset split ([0-9a-f ]+)</code>", page)
    lookup = FaceLookup(PeopleNow(rows(dataset, Face), rows(dataset, Membership), [], [], b""))
    assert command is not None
    assert {lookup.complete_id(face) for face in command[1].split()} == set(found.part)
    change(dataset, [replace(row, locked=True) for row in rows(dataset, Identity) if row.identity_id == one])
    assert suggestions(dataset)[0] == []


def test_poor_faces_do_not_suggest_a_split(dataset: Path) -> None:
    one, other = sorted(faces_of(dataset))[:2]
    poor = [replace(row, worth=0.1) for row in rows(dataset, Membership) if row.identity_id == other]
    change(dataset, poor)
    join(dataset, one, other)
    assert suggestions(dataset)[0] == []


def test_what_a_user_has_joined_or_separated_is_not_suggested(dataset: Path) -> None:
    best = suggestions(dataset)[1]
    assert [cosine for cosine, *_ in best] == sorted((cosine for cosine, *_ in best), reverse=True)
    _, one, other = best[0]
    decide(dataset, [{"kind": "merge", "sides": [one, other]}])
    assert len(faces_of(dataset)) == 4 and suggestions(dataset)[0] == []
    face = sorted(next(faces for faces in faces_of(dataset).values() if len(faces) == 3))[0]
    decide(dataset, [{"kind": "split", "faces": [face]}])
    people = {member: person for person, faces in faces_of(dataset).items() for member in faces}
    pairs = [{one, other} for _, one, other in suggestions(dataset)[1]]
    alone, former = people[face], [person for person, faces in faces_of(dataset).items() if len(faces) == 2]
    assert len(former) == 1 and {alone, former[0]} not in pairs and any(alone in pair for pair in pairs)


def test_faces_of_one_person_have_no_two_parts_that_are_unlike() -> None:
    rng = np.random.default_rng(0)

    def draw(n: int, spread: float) -> np.ndarray:
        vectors = rng.normal(size=64) + spread * rng.normal(size=(n, 64))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    for n in (2, 3, 40):
        one = divide_faces(draw(n, 0.8))
        assert one is None or one[1] > 0.8 * one[2]
    both = np.concatenate([draw(20, 0.8), draw(5, 0.8)])
    found = divide_faces(both)
    assert found is not None and found[0].tolist() == [False] * 20 + [True] * 5 and found[1] < 0.5 * found[2]
    same = np.repeat(draw(1, 0), 6, axis=0)  # six equal faces, which no direction can divide
    assert divide_faces(same) is None
