"""Tests that decisions that are recorded first and applied later have the same result as `likeness decide`."""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import curate.decisions.decide
from curate.decisions.decide import apply_decisions_of, decide
from curate.decisions.record import Desk, read_desk, record_decisions
from curate.people.leaks.audit import audit_dataset
from manifests.errors import BadInput, LedgerMissing
from manifests.ledger.decisions.applied_decisions import count_unapplied_decisions
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import DecisionRow, Face, File, Identity, Membership, Pair, Split
from manifests.report.build_report import build_report
from manifests.report.suggestions import read_user_decisions
from manifests.runtime.uris import path_of
from tests.doubles.curation import curated, curated_album, install, rows
from tests.places import Run

STATE = (Face, Identity, Membership, Split, Pair)


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Makes two equal datasets."""
    _, dataset = curated_album(tmp_path, people=5, each=4)
    return dataset, shutil.copytree(dataset, tmp_path / "other")


def read_state(dataset: Path) -> list[list[Any]]:
    return [rows(dataset, kind) for kind in STATE]


def read_people(dataset: Path) -> dict[str, list[str]]:
    people = defaultdict(list)
    for row in rows(dataset, Membership):
        people[row.identity_id].append(row.face_id)
    return dict(sorted(people.items()))


def count_waiting(dataset: Path) -> int:
    with Ledger.open(dataset) as ledger:
        return count_unapplied_decisions(ledger)


def draw_request(rng: random.Random, dataset: Path, last: int) -> dict[str, Any]:
    """Returns a random request. All faces of a split or of a move show the same person of the album.

    If the faces showed two people, they would be one person only until the next grouping, which could divide them.
    """
    people, photo = read_people(dataset), {row.photo_id: path_of(row.uri).parent.name for row in rows(dataset, File)}
    shown = {row.face_id: photo[row.photo_id] for row in rows(dataset, Face)}
    one, other = rng.sample(sorted(people), 2)
    alike = [face for face in people[one] if shown[face] == shown[people[one][0]]]
    faces = rng.sample(alike, rng.randint(1, max(1, len(alike) - 1)))
    kind = rng.choice(["merge", "split", "move", "drop", "rename", "lock", "together", "apart", "undo"])
    return {
        "merge": {"kind": "merge", "sides": [one, other]},
        "together": {"kind": "together", "sides": [one, other]},
        "apart": {"kind": "apart", "sides": [one, other]},
        "split": {"kind": "split", "faces": faces},
        "move": {"kind": "move", "faces": faces, "to": other},
        "drop": {"kind": "drop", "faces": faces[:1]},
        "rename": {"kind": "rename", "faces": [one], "name": rng.choice(["Ann", "Bob"])},
        "lock": {"kind": "lock", "faces": [one]},
        "undo": {"kind": "undo", "undoes": rng.randint(1, max(1, last))},
    }[kind]


def catch(act: Callable[[], Any]) -> tuple[Any, str]:
    """Returns (result of the call, empty text).

    If the call is refused, returns (None, sentence of the refusal).
    """
    try:
        return act(), ""
    except BadInput as error:
        return None, str(error)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in (1, 2))])
def test_decisions_recorded_one_by_one_and_applied_once_have_the_result_of_decide(
    pair: tuple[Path, Path], seed: int
) -> None:
    decided, recorded = pair
    rng, desk, last = random.Random(seed), None, 0
    for _ in range(5):
        request = draw_request(rng, decided, last)
        outcome, refusal = catch(lambda: decide(decided, [request]))  # noqa: B023
        record, same_refusal = catch(lambda: record_decisions(recorded, [request], desk))  # noqa: B023
        assert refusal == same_refusal
        if not refusal:
            desk = record.desk
            assert record.decisions == outcome.decisions
            last = desk.last_number
            # The people in memory must be the people that `decide` made in the other dataset.
            assert {face: person for person, own in read_people(decided).items() for face in own} == dict(
                desk.people.identity_of
            )
            assert desk.people.identities == {row.identity_id: row for row in rows(decided, Identity)}
            with Ledger.open(recorded) as ledger:
                assert read_desk(ledger).people.members == desk.people.members
    before = read_state(recorded)
    assert last == len(rows(recorded, DecisionRow)) == count_waiting(recorded) > 0
    apply_decisions_of(recorded)
    assert read_state(recorded) == read_state(decided) != before
    assert count_waiting(recorded) == count_waiting(decided) == 0


def split_two(dataset: Path) -> tuple[Desk, str]:
    """Records two splits: each split takes one face out of another person. Returns the desk and the first of the two
    faces.
    """
    one, other = list(read_people(dataset).values())[:2]
    desk = record_decisions(dataset, [{"kind": "split", "faces": one[:1]}]).desk
    return record_decisions(dataset, [{"kind": "split", "faces": other[:1]}], desk).desk, one[0]


def test_curate_applies_what_was_recorded_and_other_commands_say_what_to_do(
    tmp_path: Path, pair: tuple[Path, Path], command: Run
) -> None:
    dataset, _ = pair
    _, face = split_two(dataset)
    sentence = f"2 decisions of {dataset} are not applied yet. Run `likeness decide {dataset} apply` first."
    for act in (lambda: build_report(dataset), lambda: audit_dataset(dataset)):
        with pytest.raises(BadInput, match=r"2 decisions of .* are not applied yet"):
            act()
    assert sentence in command("manifest", "show", dataset).stdout.replace("\n", " ")
    curated(tmp_path / "photos", dataset)
    assert count_waiting(dataset) == 0
    assert [face] in read_people(dataset).values()
    assert "not applied" not in command("manifest", "check", dataset).stdout


def test_the_command_apply_says_what_it_did(pair: tuple[Path, Path], command: Run) -> None:
    dataset, other = pair
    split_two(dataset)
    before = read_state(dataset)
    assert "would apply 2 decisions" in command("decide", dataset, "apply", "--dry-run").stdout
    assert read_state(dataset) == before
    assert (
        "The command applied 2 decisions.\nThe person of 2 faces changes" in command("decide", dataset, "apply").stdout
    )
    assert command("decide", dataset, "apply").stdout == "All decisions are applied already.\n"
    wrong = command("decide", dataset, "apply", "p-123456")
    assert wrong.returncode == 2 and "takes no ids" in wrong.stderr
    person = next(iter(read_people(other)))
    record_decisions(other, [{"kind": "rename", "faces": [person], "name": "Ann"}])
    assert f"{person} is now called Ann" in command("decide", other, "apply").stdout


def test_decide_applies_earlier_decisions_too(pair: tuple[Path, Path]) -> None:
    decided, recorded = pair
    one, other = list(read_people(decided).values())[:2]
    for dataset, act in ((decided, decide), (recorded, record_decisions)):
        act(dataset, [{"kind": "split", "faces": one[:1]}])
        outcome = decide(dataset, [{"kind": "move", "faces": other[:1], "to": one[0]}])
    assert "1 decision that was recorded before is applied too." in outcome.notices and outcome.applied == 2
    assert read_state(decided) == read_state(recorded)


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(stage, marks=() if stage == "pair_faces" else pytest.mark.exhaustive)
        for stage in ("compute_groups", "split_faces", "pair_faces", "audit_leaks")
    ],
)
def test_a_pass_that_was_killed_is_done_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    killed, whole = pair
    for dataset in pair:
        split_two(dataset)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(curate.decisions.decide, stage, die)
        with pytest.raises(KeyboardInterrupt):
            apply_decisions_of(killed)
    assert count_waiting(killed) == 2
    for dataset in pair:
        apply_decisions_of(dataset)
    assert read_state(killed) == read_state(whole) and count_waiting(killed) == 0


def test_a_desk_that_another_command_made_old_is_read_again(pair: tuple[Path, Path]) -> None:
    dataset, _ = pair
    desk, _ = split_two(dataset)
    one, other = list(read_people(dataset))[2:4]
    decide(dataset, [{"kind": "merge", "sides": [one, other]}])
    with pytest.raises(BadInput, match="belong to one person already"):
        record_decisions(dataset, [{"kind": "merge", "sides": [one, read_people(dataset)[one][-1]]}], desk)
    result = record_decisions(dataset, [{"kind": "lock", "faces": [one]}], desk)
    assert result.desk is not desk and result.decisions[0][0] == 4 and len(result.desk.people.members[one]) == 8
    again = record_decisions(dataset, [{"kind": "lock", "faces": [one]}], result.desk)
    assert again.decisions == () and again.change is None and "contains this decision" in again.notices[0]
    (dataset / LEDGER_NAME).unlink()
    with pytest.raises(LedgerMissing):  # the command must not make an empty ledger
        record_decisions(dataset, [{"kind": "lock", "faces": [other]}], again.desk)
    assert not (dataset / LEDGER_NAME).exists()


def test_frozen_splits_are_checked_before_anything_is_recorded(pair: tuple[Path, Path]) -> None:
    dataset, _ = pair
    own = next(iter(read_people(dataset).values()))
    decide(dataset, [{"kind": "split", "faces": own[:2]}])
    splits = {row.face_id: row for row in rows(dataset, Split)}
    with Ledger.open(dataset, write=True) as ledger:  # the two parts of the person are put into two frozen splits
        frozen = [
            Split(face, splits[face].identity_id, "test" if face in own[:2] else "train", "identity", locked=True)
            for face in own
        ]
        ledger.record("frozen", "all", {}, frozen)
    with pytest.raises(BadInput, match="One person cannot be in two splits"):
        record_decisions(dataset, [{"kind": "merge", "sides": [own[0], own[3]]}])
    with pytest.raises(BadInput, match=r"Nothing is recorded: .* has faces of .*frozen sets use both"):
        record_decisions(dataset, [{"kind": "undo", "undoes": 1}])
    assert len(rows(dataset, DecisionRow)) == 1


def test_two_people_who_are_apart_stay_apart_until_the_user_merges_them(pair: tuple[Path, Path], command: Run) -> None:
    dataset, _ = pair
    one, other, third = list(read_people(dataset))[:3]
    before = read_people(dataset)
    said = command("decide", dataset, "apart", one, other)
    assert said.returncode == 0 and "show different people" in said.stdout and read_people(dataset) == before
    decide(dataset, [{"kind": "merge", "sides": [one, third]}])
    merged = next(person for person, own in read_people(dataset).items() if before[one][0] in own)
    assert [sorted(own) for own in read_people(dataset).values()].count(sorted(before[other])) == 1
    same = command("decide", dataset, "apart", before[other][0], before[other][1])
    assert same.returncode == 2 and "use split" in same.stderr
    with Ledger.open(dataset) as ledger:
        decisions = read_user_decisions(ledger)
    assert {(merged, other), (other, merged)} <= decisions.separated
    # this merge contradicts the decision `apart`, and the newest decision counts
    for act in (record_decisions, decide):
        assert (
            act(dataset, [{"kind": "merge", "sides": [merged, other]}]).notices[0]
            == "Decision 1 (apart) is taken back."
        )
        act(dataset, [{"kind": "undo", "undoes": len(rows(dataset, DecisionRow))}])
