"""Tests the decision `assign`, in which the user chooses the split of a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from curate.decisions.decide import decide
from curate.decisions.log_entries import format_entry, read_log_entries
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Split
from tests.doubles.curation import curated, curated_album, find_problems, install, rows
from tests.places import Run


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    install(monkeypatch)
    return curated_album(tmp_path, people=5, each=3)


def find_splits(dataset: Path) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = {}
    for row in rows(dataset, Split):
        splits.setdefault(row.identity_id, set()).add(row.split)
    return splits


def test_a_person_goes_to_the_split_and_stays_there(made: tuple[Path, Path], command: Run):
    photos, dataset = made
    before = find_splits(dataset)
    person, split = next((person, split) for person, split in sorted(before.items()) if split != {"val"})
    done = command("decide", dataset, "assign", person, "--split", "val")
    assert done.returncode == 0 and "put into val" in done.stdout
    assert find_splits(dataset)[person] == {"val"} and find_problems(dataset) == []
    curated(photos, dataset)
    assert find_splits(dataset)[person] == {"val"}
    (entry,) = read_log_entries(dataset)
    line = format_entry(entry)
    assert line["kind"] == "assign" and line["split"] == "val" and "name" not in line
    assert decide(dataset, [line]).decisions == ()  # the log already contains the decision, so it is not recorded again
    decide(dataset, [{"kind": "undo", "undoes": 1}])
    assert find_splits(dataset)[person] == split


def test_a_person_of_a_frozen_set_stays_and_a_wrong_split_is_refused(made: tuple[Path, Path], command: Run):
    _, dataset = made
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("split", "all", {}, [replace(row, locked=True) for row in ledger.read_rows(Split)])
    person = next(person for person, split in sorted(find_splits(dataset).items()) if split == {"train"})
    with pytest.raises(BadInput, match="is in the frozen train split, and stays there"):
        decide(dataset, [{"kind": "assign", "faces": [person], "split": "test"}])
    with pytest.raises(BadInput, match="The split is 'all'"):
        decide(dataset, [{"kind": "assign", "faces": [person], "split": "all"}])
    assert "The assign is incomplete. Give the split" in command("decide", dataset, "assign", person).stderr
    assert "Only the action assign takes --split" in command("decide", dataset, "lock", person, "--split", "val").stderr
    assert rows(dataset, DecisionRow) == []
