"""Tests the decision to use another copy of a picture: later curations keep it, and an undo takes it back."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from curate.decisions.decide import apply_decisions_of, decide
from curate.decisions.log_entries import format_entry, read_log_entries
from curate.decisions.record import record_decisions
from curate.review.copies.copy_groups import read_groups
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Membership
from tests.doubles.curation import album, curated, find_problems, install, photo, rows, save


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a dataset in which a picture of the first person has two smaller copies."""
    install(monkeypatch)
    photos = album(tmp_path / "photos", people=3, each=3)
    for name, scale in (("a", 0.8), ("b", 0.7)):
        save(photos / "copies" / f"{name}.png", cv2.resize(photo([0], 0), None, fx=scale, fy=scale, interpolation=3))
    curated(photos, tmp_path / "dataset")
    return tmp_path / "dataset"


def read_copies(dataset: Path) -> dict[str, str]:
    """Returns a dict that maps each face of the picture that has copies to the face that is used in its place."""
    faces = rows(dataset, Face)
    (original,) = {face.duplicate_of for face in faces} - {None}
    return {face.face_id: face.representative for face in faces if face.representative == original}


def prefer(dataset: Path, face: str) -> None:
    decide(dataset, [{"kind": "prefer", "faces": [face]}])


def test_the_preferred_copy_is_used_until_an_undo(made: Path) -> None:
    before = read_copies(made)
    (original,), (one, other) = set(before.values()), sorted(before.keys() - set(before.values()))
    people = {row.face_id: row.identity_id for row in rows(made, Membership)}
    # the last decision counts, even if it repeats the first decision
    for number, face in enumerate((one, other, one), 1):
        prefer(made, face)
        assert len(read_log_entries(made)) == number
        for later in range(1 + (number == 3)):
            if later:
                curated(made.parent / "photos", made)
            assert set(read_copies(made).values()) == {face} and read_copies(made).keys() == before.keys()
            now = {row.face_id: row.identity_id for row in rows(made, Membership)}
            assert now[face] == people[original] and original not in now and find_problems(made) == []
    line = format_entry(read_log_entries(made)[0])
    assert len(line["faces"]) == 1 and len(line["rest"]) == 2 and not line["missing"]
    decide(made, [{"kind": "undo", "undoes": number} for number in (3, 2, 1)])
    assert read_copies(made) == before


def test_a_decision_from_a_file_names_its_copies_itself_and_a_drop_takes_all_copies(made: Path) -> None:
    copies = read_copies(made)
    small = min(copies.keys() - set(copies.values()))
    prefer(made, small)
    line = format_entry(read_log_entries(made)[0])
    decide(made, [{"kind": "undo", "undoes": 1}, {key: line[key] for key in ("kind", "faces", "rest")}])
    assert set(read_copies(made).values()) == {small}
    decide(made, [{"kind": "drop", "faces": [small]}])
    assert {face.reason for face in rows(made, Face) if face.face_id in copies} == {"decided"}


def test_only_one_face_with_copies_can_be_preferred(made: Path) -> None:
    copies = read_copies(made)
    alone = next(face.face_id for face in rows(made, Face) if face.face_id not in copies)
    person = rows(made, Membership)[0].identity_id
    for faces, words in (([alone], "has no copies"), (sorted(copies), "takes one face"), ([person], "takes one face")):
        with pytest.raises(BadInput, match=words):
            decide(made, [{"kind": "prefer", "faces": faces}])
    assert read_log_entries(made) == []


def test_a_recorded_decision_is_applied_later_with_the_same_result(made: Path) -> None:
    copies = read_copies(made)
    small = min(copies.keys() - set(copies.values()))
    record_decisions(made, [{"kind": "prefer", "faces": [small]}])
    assert read_copies(made) == copies
    with Ledger.open(made) as ledger:
        (group,) = read_groups(ledger, 0, 9)
    assert [copy.face_id for copy in group.copies if copy.is_next] == [small] and not group.by_user
    apply_decisions_of(made)
    assert set(read_copies(made).values()) == {small}
    with Ledger.open(made) as ledger:
        (group,) = read_groups(ledger, 0, 9)
    assert group.by_user and group.copies[0].face_id == small and not any(copy.is_next for copy in group.copies)
    assert sum(copy.reason.startswith("is what Likeness would use") for copy in group.copies) == 1
