"""Tests that `manifest check` finds leaks, and that a repair ends the leaks with decisions that later runs keep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from curate.decisions.decide import decide
from curate.decisions.repair_leaks import repair_leaks
from curate.people.leaks.audit import audit_dataset
from curate.people.leaks.face_line import FaceLine
from curate.people.leaks.find_leaks import Leak
from curate.people.leaks.plan_repair import plan_repair
from curate.people.split.together import move_together
from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Membership, Split
from tests.doubles.curation import curated, curated_album, install, rows
from tests.places import Run


def line(face: str, person: str, split: str, copy_of: str | None = None) -> FaceLine:
    return FaceLine(face, f"photo {face}", person, split, "0" * 64, "0" * 16, (0, 0, 1, 1), copy_of)


def leak(one: str, other: str, kind: str = "cosine") -> Leak:
    return Leak(kind, one, "train", other, "val", 0.5, "")


def test_a_small_person_moves_and_one_odd_face_of_a_large_person_is_dropped() -> None:
    faces = {f"a{i}": line(f"a{i}", "a", "train") for i in range(30)}
    faces |= {f"b{i}": line(f"b{i}", "b", "val") for i in range(30)}
    faces |= {f"c{i}": line(f"c{i}", "c", "val") for i in range(10)}
    odd, small = [leak(f"a{i}", "b7") for i in range(9)], [leak("a3", "c1")]
    plan = plan_repair([*odd, *small], faces, set(), with_moves=True)
    assert (plan.together, plan.dropped) == ([("a", "c")], ["b7"])
    plan = plan_repair([*odd, *small], faces, {"b7", "a3", "a4"}, with_moves=False)
    assert plan.together == [] and plan.dropped == sorted(["a0", "a1", "a2", *(f"a{i}" for i in range(5, 9)), "c1"])


def test_a_copy_is_dropped_with_its_original_and_a_reference_of_itself_too() -> None:
    faces = {"a": line("a", "p", "train"), "b": line("b", "q", "val"), "b copy": line("b copy", "q", "val", "b")}
    plan = plan_repair([leak("a", "b copy", "near_duplicate")], faces, set(), with_moves=False)
    assert plan.dropped == ["b"]
    assert plan_repair([leak("a", "b", "own_reference")], faces, {"a"}, with_moves=True).dropped == ["b"]


def test_only_the_smaller_people_move_and_frozen_people_stay() -> None:
    owner = {"1": "p", "2": "p", "3": "q", "4": "r", "5": "s"}
    split_of = {"1": "train", "2": "train", "3": "val", "4": "test", "5": "val"}
    moved = {**split_of, "3": "train", "4": "train"}
    assert move_together(split_of, owner, [("p", "q"), ("q", "r")], []) == moved
    assert move_together(split_of, owner, [("p", "q")], ["3"]) == {**split_of, "1": "val", "2": "val"}
    assert (
        move_together(split_of, owner, [("p", "q")], ["1", "3"]) == split_of == move_together(split_of, owner, [], [])
    )


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a dataset in which decisions divide people, until the two parts of one person are in two splits."""
    install(monkeypatch)
    curated_album(tmp_path, people=5, each=4)
    split_of = {row.face_id: row.split for row in rows(tmp_path / "dataset", Split)}
    by_person: dict[str, list[str]] = {}
    for row in rows(tmp_path / "dataset", Membership):
        by_person.setdefault(row.identity_id, []).append(row.face_id)
    # The new person may get the split of the old person by chance, so people are divided until two splits differ.
    for faces in by_person.values():
        decide(tmp_path / "dataset", [{"kind": "split", "faces": faces[:2]}])
        split_of = {row.face_id: row.split for row in rows(tmp_path / "dataset", Split)}
        if split_of[faces[0]] != split_of[faces[2]]:
            return tmp_path / "dataset"
    raise AssertionError(split_of)


def test_the_check_reads_the_search_and_the_repair_ends_the_leaks(leaky: Path, command: Run) -> None:
    (problem,) = check_ledger(leaky)
    assert problem.startswith("leaks of the kind cosine: ") and "--repair" in problem
    people, log = len({row.identity_id for row in rows(leaky, Membership)}), len(rows(leaky, DecisionRow))
    plan = repair_leaks(leaky, dry_run=True)
    assert plan.leaks_before == plan.leaks_after > 0 and plan.together and len(rows(leaky, DecisionRow)) == log
    done = repair_leaks(leaky)
    assert done.leaks_after == 0 and done.together[: len(plan.together)] == plan.together and not done.dropped
    assert check_ledger(leaky) == [] and len({row.identity_id for row in rows(leaky, Membership)}) == people
    assert [row.kind for row in rows(leaky, DecisionRow)][log:] == ["together"] * len(done.decisions)
    # A later curation keeps the repair, and an undo of the repair brings the leak back.
    assert curated(leaky.parent / "photos", leaky).leaking == {name: (0, n) for name, n in count_faces(leaky).items()}
    assert repair_leaks(leaky).decisions == () and check_ledger(leaky) == []
    decide(leaky, [{"kind": "undo", "undoes": number} for number in done.decisions])
    assert check_ledger(leaky) == [problem]
    said = command("leaks", leaky, "--repair")
    assert said.returncode == 0 and "stay different people" in said.stdout and "Leaks now: 0." in said.stdout, said
    refused = command("leaks", leaky, "--dry-run")
    assert refused.returncode == 2 and "--repair" in refused.stderr


def count_faces(dataset: Path) -> dict[str, int]:
    counts = {name: sum(row.split == name for row in rows(dataset, Split)) for name in ("train", "val", "test")}
    return {name: count for name, count in counts.items() if count}


def test_a_search_that_is_missing_or_older_than_the_splits_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    _, dataset = curated_album(tmp_path)
    assert check_ledger(dataset) == []
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("double", "forget", {}, delete=[("stages", "stage", ["leaks"])])
    assert check_ledger(dataset) == [f"the splits were not searched for leaks: run `likeness leaks {dataset}`"]
    audit_dataset(dataset)
    assert check_ledger(dataset) == []
    with Ledger.open(dataset, write=True) as ledger:
        people = {row.identity_id for row in ledger.read_rows(Split)}
        moved = [row for row in ledger.read_rows(Split) if row.identity_id == min(people)]
        ledger.record("double", "move", {}, [dataclasses.replace(row, policy="photos") for row in moved])
    assert f"the last search for leaks is older than the splits: run `likeness leaks {dataset}`" in check_ledger(
        dataset
    )
