"""Tests that the newest act about a face counts, that one undo brings the former state back, and that redo works."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from curate.decisions.decide import apply_decisions_of, decide
from curate.decisions.record import Desk, record_decisions
from curate.people.pending.people_now import follow_batches
from curate.review.session.history import find_redo, find_undo
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.records import DecisionRow
from tests.doubles.curation import contents, find_problems, name_faces, rows
from tests.doubles.review.client import Review, review_dataset
from tests.doubles.review.desk import copy_desk, list_people, read_desk_of, record

Requests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def read_once(curated_once: Path) -> tuple[Desk, dict[str, str]]:
    """Returns the desk of a dataset of four people with five photos each, and its faces. No test changes the desk."""
    desk = read_desk_of(curated_once / "dataset")
    return desk, name_faces(curated_once / "dataset")


def make_requests(kind: str, desk: Desk, face: dict[str, str]) -> Requests:
    """Returns the requests of an act about the face 0/0. Face number 4 of each person says who the person is."""
    of, one = desk.people.identity_of, face["0/0"]
    first, second, third = (of[face[f"{number}/4"]] for number in range(3))
    others = [face[f"0/{number}"] for number in range(1, 5)]
    return {
        "move to second": [{"kind": "move", "faces": [one], "to": second}],
        "move to third": [{"kind": "move", "faces": [one], "to": third}],
        "move back": [{"kind": "move", "faces": [one, others[0]], "to": first}],
        "move two": [{"kind": "move", "faces": [one, others[0]], "to": second}],
        "new person": [{"kind": "split", "faces": [one]}],
        "two out": [{"kind": "split", "faces": [one]}, {"kind": "split", "faces": [others[0]]}],
        "move others": [{"kind": "move", "faces": others, "to": third}],
        "move all of second": [{"kind": "move", "faces": [face[f"1/{n}"] for n in range(5)], "to": third}],
        "merge": [{"kind": "merge", "sides": [of.get(one), second if of.get(one) == first else first]}],
        "apart": [{"kind": "apart", "sides": [first, second]}],
        "merge three": [{"kind": "merge", "sides": [first, second, third]}],
        "lock": [{"kind": "lock", "faces": [of.get(one)]}],
        "drop": [{"kind": "drop", "faces": [one, others[0]]}],
    }[kind]


# Each pair is an older act, and a newer act that contradicts it.
PAIRS = [
    ("move to second", "move to third"), ("move to second", "move back"), ("move two", "move to third"),
    ("move two", "move back"), ("move to second", "new person"), ("move two", "two out"), ("move two", "move others"),
    ("move to second", "move all of second"), ("move to second", "merge"), ("new person", "move back"),
    ("two out", "move back"), ("new person", "merge"), ("apart", "merge"), ("apart", "merge three"),
    ("lock", "move two"), ("lock", "new person"), ("lock", "two out"), ("lock", "move others"),
    ("merge", "move all of second"), ("move others", "move to third"), ("move others", "merge"),
    ("drop", "move to third"),
]  # fmt: skip


@pytest.mark.parametrize(("older", "newer"), PAIRS)
def test_the_newer_of_two_acts_counts(read_once: tuple[Desk, dict[str, str]], older: str, newer: str):
    desk, face = copy_desk(read_once[0]), read_once[1]
    record(desk, make_requests(older, desk, face))
    before, dropped = list_people(desk), {one for one, row in desk.people.faces.items() if row.status != "ok"}
    requests = make_requests(newer, desk, face)
    target = [one for request in requests for one in desk.people.members.get(request.get("to"), ())]
    sides = [one for request in requests for side in request.get("sides", ()) for one in desk.people.members[side]]
    new = record(desk, requests)
    named, of = {one for request in requests for one in request.get("faces", ())}, desk.people.identity_of
    if requests[0]["kind"] == "move":
        assert len({of[one] for one in {*named, *target}}) == 1
    if requests[0]["kind"] == "merge":
        assert len({of[one] for one in sides}) == 1
    if requests[0]["kind"] == "split":
        assert all(set(desk.people.members[of[one]]) <= named for one in named)
    # only a merge moves faces that the act does not name
    if requests[0]["kind"] != "merge":
        assert list_people(desk, named) == {one - named for one in before if one - named}
    record(desk, [{"kind": "undo", "undoes": one.number} for one in reversed(new)])
    assert list_people(desk) == before
    assert {one for one, row in desk.people.faces.items() if row.status != "ok"} == dropped


def draw_act(desk: Desk, rng: random.Random) -> Requests:
    """Returns the requests of a random act, as the pages of the review send them. The list may be empty."""
    people = sorted(person for person, faces in desk.people.members.items() if faces)
    person, other = rng.sample(people, 2) if len(people) > 1 else (people[0], people[0])
    members = desk.people.members[person]
    faces = rng.sample(members, min(len(members), rng.choice((1, 1, 2, 3, 5))))
    dropped = sorted(one for one, row in desk.people.faces.items() if row.status != "ok")
    kind = rng.choice(("move", "move", "move", "split", "out", "merge", "merge", "apart", "drop", "use"))
    if kind in ("split", "out") and len(faces) == len(members):
        return []
    if kind == "out":
        return [{"kind": "split", "faces": [one]} for one in faces]
    if kind in ("merge", "apart"):
        return [{"kind": kind, "sides": [person, other]}] if person != other else []
    if kind == "use":
        return [{"kind": "move", "faces": dropped[:2], "to": person}] if dropped else []
    if kind == "move":
        return [{"kind": kind, "faces": faces, "to": other}] if person != other else []
    return [{"kind": kind, "faces": faces}]


@pytest.mark.parametrize("seed", range(25))
def test_no_sequence_of_acts_is_refused_and_each_act_can_be_undone_and_redone(
    read_once: tuple[Desk, dict[str, str]], seed: int
):
    desk, rng = copy_desk(read_once[0]), random.Random(seed)
    batches: list[list[Decision]] = []
    batch_of: dict[int, object] = {}
    for _ in range(10):
        if not (requests := draw_act(desk, rng)):
            continue
        before = list_people(desk)
        batches.append(record(desk, requests))  # if an act is refused, the test ends with the error Contradiction
        after = list_people(desk)
        batch_of |= {one.number: len(batches) for one in batches[-1]}
        other, batch = copy_desk(desk), dict(batch_of)
        undone = record(other, [{"kind": "undo", "undoes": n} for n in find_undo(other.people.log, batch)])
        assert list_people(other) == before
        batch |= {one.number: "undo" for one in undone}
        record(other, [{"kind": "undo", "undoes": n} for n in find_redo(other.people.log, batch)])
        assert list_people(other) == after
    again = copy_desk(read_once[0])
    follow_batches(again.people, batches)  # a restarted review applies the recorded decisions in this way
    assert list_people(again) == list_people(desk)


def test_a_face_is_moved_again_and_again_and_the_command_line_gives_the_same_ledger(dataset: Path, tmp_path: Path):
    twin = tmp_path / "twin"
    shutil.copytree(dataset, twin)

    def describe(review: Review) -> set[frozenset[str]]:
        return list_people(review.session.read().desk)

    with review_dataset(dataset) as review:
        face = name_faces(dataset)
        one, states, of = face["0/0"], [describe(review)], review.session.read().people.identity_of
        acts = [{"kind": "move", "faces": [one], "to": of[face[f"{number}/1"]]} for number in (1, 2, 0, 3)]
        sentences = []
        for act in [*acts, {"kind": "split", "faces": [one]}]:
            sentences.append(review.decide(act)["notices"])
            states.append(describe(review))
        second, third = (act["to"] for act in acts[:2])
        assert sentences[1:3] == [[f"The move of 1 face to {second} is taken back in part."], [
            f"The move of 1 face to {second} is taken back.", f"The move of 1 face to {third} is taken back in part.",
        ]]  # fmt: skip
        assert frozenset([one]) in states[-1]
        for state in reversed(states[:-1]):
            review.act(act="undo")
            assert describe(review) == state
        for state in states[1:3]:
            review.act(act="redo")
            assert describe(review) == state
    # This review is a restart; the first review applied the decisions when it ended
    with review_dataset(dataset) as review:
        assert describe(review) == states[2]
        for state in states[3:]:
            review.act(act="redo")
            assert describe(review) == state
        sentence = review.act(act="undo")["sentence"]
        fourth = review.session.read().people.identity_of[face["3/1"]]
        assert sentence == f"Undone: 1 decision (split). The move of 1 face to {fourth} counts again."
        assert describe(review) == states[4]
    for act in acts:
        decide(twin, [act])
    assert find_problems(dataset) == find_problems(twin) == []
    assert contents(dataset)["memberships"] == contents(twin)["memberships"]
    made = {(row.decision_id, row.kind, row.faces) for row in rows(twin, DecisionRow)}
    assert made <= {(row.decision_id, row.kind, row.faces) for row in rows(dataset, DecisionRow)}


def test_a_drop_counts_again_after_an_undo_also_if_the_decisions_were_applied(dataset: Path):
    def describe() -> tuple[set[frozenset[str]], set[str]]:
        desk = read_desk_of(dataset)
        return list_people(desk), {one for one, row in desk.people.faces.items() if row.status != "ok"}

    desk = read_desk_of(dataset)
    face = name_faces(dataset)
    decide(dataset, [{"kind": "drop", "faces": [face["0/0"], face["0/1"]]}])
    dropped = describe()
    assert dropped[1] == {face["0/0"], face["0/1"]}
    to, rest = (desk.people.identity_of[face[name]] for name in ("1/0", "0/2"))
    decide(dataset, [{"kind": "move", "faces": [face["0/0"]], "to": to, "rest": rest}])
    moved = describe()
    # decision 3 is an undo, 4 is its redo, and 5 is an undo again
    for number, state in ((2, dropped), (3, moved), (4, dropped)):
        record_decisions(dataset, [{"kind": "undo", "undoes": number}])
        assert describe() == state  # the state is right even before the decisions are applied
    apply_decisions_of(dataset)
    assert describe() == dropped and find_problems(dataset) == []
    record_decisions(dataset, [{"kind": "undo", "undoes": 5}])  # the face is not in the last grouping
    assert describe() == moved


def test_undos_bring_every_former_state_back_after_the_decisions_were_applied(dataset: Path):
    def describe() -> set[frozenset[str]]:
        return list_people(read_desk_of(dataset))

    desk = read_desk_of(dataset)
    face = name_faces(dataset)
    first, second, third = (desk.people.identity_of[face[name]] for name in ("0/1", "1/1", "2/1"))
    acts: Requests = [
        {"kind": "split", "faces": [face["0/0"]]},
        {"kind": "merge", "sides": [face["0/0"], first]},
        {"kind": "move", "faces": [face["2/0"]], "to": second},
        {"kind": "move", "faces": [face["2/0"], face["1/0"]], "to": third},
    ]
    states = [describe()]
    for act in acts:
        decide(dataset, [act])
        states.append(describe())
    # only four states differ, because the merge brings the first state back
    assert len({frozenset(state) for state in states}) == 4
    for number in range(len(acts), 0, -1):
        record_decisions(dataset, [{"kind": "undo", "undoes": number}])
        assert describe() == states[number - 1]


@pytest.mark.parametrize("names_rest", [True, False], ids=["rest of an old log", "rest of today"])
def test_undo_puts_all_faces_but_one_back_after_the_decisions_were_applied(dataset: Path, names_rest: bool):
    before = list_people(read_desk_of(dataset))
    own = sorted(min(before, key=sorted))
    others = [[face for face in own if face != one] for one in own]
    rest = [
        {"rest": other} if names_rest else {} for other in others
    ]  # in an old log, each split of an act also names the other faces as `rest`
    decide(dataset, [{"kind": "split", "faces": [one], **rest[place]} for place, one in enumerate(own[:-1])])
    assert {frozenset([one]) for one in own} < list_people(read_desk_of(dataset))
    record_decisions(dataset, [{"kind": "undo", "undoes": 4}])
    assert frozenset(own[3:]) in list_people(read_desk_of(dataset))
    record_decisions(dataset, [{"kind": "undo", "undoes": number} for number in (3, 2, 1)])
    assert list_people(read_desk_of(dataset)) == before
