"""Tests that the lines of a decision file have the result of commands that record one line each."""

from __future__ import annotations

from typing import Any

import pytest

from curate.decisions.lookup.name_decision import name_in_words
from curate.decisions.record import Desk
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import encode_faces
from tests.doubles.curation import curated_album, install, name_faces
from tests.doubles.review.desk import copy_desk, plan, read_desk_of, record

Requests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def read_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, dict[str, str]]:
    """Returns the desk of a dataset of four people with five photos each, and its faces. No test changes the desk."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        _, dataset = curated_album(tmp_path_factory.mktemp("file"), people=4, each=5)
    desk = read_desk_of(dataset)
    return desk, name_faces(dataset)


def make_acts(desk: Desk, face: dict[str, str]) -> dict[str, Requests]:
    """Returns acts about a few faces, with the ids that the people have now."""
    of, one, two = desk.people.identity_of, face["0/0"], face["0/1"]
    home, second, third = (of[face[f"{number}/4"]] for number in range(3))
    own = of.get(one, home)
    undo = {"kind": "undo", "undoes": desk.last_number}
    return {
        "move": [{"kind": "move", "faces": [one], "to": second}],
        "move two": [{"kind": "move", "faces": [one, two], "to": third}],
        "move home": [{"kind": "move", "faces": [one], "to": home}],
        "move all": [{"kind": "move", "faces": [own], "to": third}],
        "split": [{"kind": "split", "faces": [one]}],
        "split two": [{"kind": "split", "faces": [one, two]}],
        "out": [{"kind": "split", "faces": [one]}, {"kind": "split", "faces": [two]}],
        "merge": [{"kind": "merge", "sides": [own, second]}],
        "merge home": [{"kind": "merge", "sides": [one, home]}],
        "apart": [{"kind": "apart", "sides": [home, second]}],
        "drop": [{"kind": "drop", "faces": [one]}],
        "drop two": [{"kind": "drop", "faces": [two, face["1/0"]], "reason": "a drawing"}],
        "lock": [{"kind": "lock", "faces": [home]}],
        "lock second": [{"kind": "lock", "faces": [second]}],
        "rename": [{"kind": "rename", "faces": [own], "name": "Ann"}],
        "assign": [{"kind": "assign", "faces": [own], "split": "val"}],
        "consent": [{"kind": "consent", "photos": [two], "consent": "no"}],
        "undo": [undo] if desk.last_number else [],
    }


def describe(desk: Desk) -> tuple[set[tuple[object, ...]], set[tuple[str, str | None]]]:
    """Returns the people with their names and locks, and the faces that are not in use."""
    people = desk.people
    own = {(frozenset(people.members[one.identity_id]), one.name, one.locked) for one in people.identities.values()}
    unused = {(face.face_id, face.reason) for face in people.faces.values() if face.status != "ok"}
    return {person for person in own if person[0]}, unused


def test_two_lines_of_a_file_have_the_result_of_two_commands(read_once: tuple[Desk, dict[str, str]]):
    start, face = read_once
    acts = make_acts(start, face)
    compared, wrong = 0, []
    for older in acts:
        if older in ("move home", "merge home", "undo"):  # nothing to do yet
            continue
        after = copy_desk(start)
        record(after, acts[older])
        for newer, second in make_acts(after, face).items():
            commands, file = copy_desk(after), copy_desk(start)
            try:
                record(commands, second)
            except BadInput:  # a command that records only this act is refused
                continue
            record(file, [*acts[older], *second])
            compared += 1
            if describe(file) != describe(commands):
                wrong.append((older, newer))
    assert not wrong and compared > 150


def test_a_decision_that_is_wholly_in_force_is_never_refused_as_a_contradiction(read_once: tuple[Desk, dict[str, str]]):
    desk, face = copy_desk(read_once[0]), read_once[1]
    second = desk.people.identity_of[face["1/4"]]
    (first,) = record(desk, [{"kind": "move", "faces": [face["0/0"]], "to": second}])
    record(desk, [{"kind": "move", "faces": [face["0/1"]], "to": second}])
    before = describe(desk)
    # The line says that 0/0 and 0/1 are two people, but they are one person now.
    line = {"kind": "move", **encode_faces(first)}
    planned = plan(desk, [line])
    assert planned.decisions == [] and "already contains this decision as decision 1 (move)" in planned.notices[0]
    assert describe(desk) == before


def test_a_decision_has_a_name_in_words(read_once: tuple[Desk, dict[str, str]]):
    desk, face = copy_desk(read_once[0]), read_once[1]
    of = desk.people.identity_of
    one, two = face["0/0"], face["0/1"]
    home, second, third = (of[face[f"{number}/4"]] for number in range(3))
    named = [
        ({"kind": "rename", "faces": [home], "name": "Ann"}, "the name Ann"),
        ({"kind": "together", "sides": [home, third]}, f"the decision that Ann and {third} are in one split"),
        ({"kind": "apart", "sides": [home, second]}, f"the decision that Ann and {second} are different people"),
        ({"kind": "assign", "faces": [home], "split": "val"}, "the split val for Ann"),
        ({"kind": "consent", "photos": [two, face["1/0"]], "consent": "yes"}, "the consent yes for 2 photos"),
        ({"kind": "split", "faces": [two]}, "the split of 1 face from Ann"),
        ({"kind": "move", "faces": [one], "to": second}, f"the move of 1 face to {second}"),
        ({"kind": "merge", "sides": [two, home]}, "the merge into Ann"),
        ({"kind": "lock", "faces": [home]}, "the lock of Ann"),
        ({"kind": "drop", "faces": [two], "reason": "a drawing"}, "the drop of 1 face (a drawing)"),
    ]
    for request, name in named:
        (decision,) = record(desk, [request])
        assert name_in_words(decision, desk.people) == name
    (undo,) = record(desk, [{"kind": "undo", "undoes": len(named)}])
    assert name_in_words(undo, desk.people) == "the undo of the drop of 1 face (a drawing)"


def test_a_second_drop_of_a_face_is_refused_and_the_sentence_says_what_to_do(read_once: tuple[Desk, dict[str, str]]):
    desk, face = copy_desk(read_once[0]), read_once[1]
    lines = [{"kind": "drop", "faces": [face["0/0"]], "reason": reason} for reason in ("a drawing", "a statue")]
    sentence = r"The face \w{12} is not in use \(decided\)\. Leave this face out, or undo its drop first\."
    with pytest.raises(BadInput, match=f"^{sentence}$"):
        plan(desk, lines)
    record(desk, lines[:1])
    with pytest.raises(BadInput, match=f"^{sentence}$"):
        plan(desk, lines[1:])
    record(desk, [{"kind": "undo", "undoes": 1}])
    assert record(desk, lines[1:])[0].name == "a statue"


def test_the_lines_of_a_file_may_say_the_same_and_may_name_people_whom_earlier_lines_have_merged(
    read_once: tuple[Desk, dict[str, str]],
):
    desk, face = copy_desk(read_once[0]), read_once[1]
    people = [desk.people.identity_of[face[f"{number}/0"]] for number in range(4)]
    merges = [{"kind": "merge", "sides": [people[0], other]} for other in people[1:3]]
    same = {"kind": "merge", "sides": [face["1/0"], face["2/0"]]}
    planned = plan(desk, [*merges, same, {"kind": "lock", "faces": [people[1]]}])
    assert len(planned.decisions) == 3 and "have the same effect" in planned.notices[0]
    record(desk, [*merges, {"kind": "drop", "faces": [people[2]]}])
    assert {face for face, row in desk.people.faces.items() if row.status != "ok"} == set(
        read_once[0].people.members[people[2]]
    )
    with pytest.raises(BadInput, match="The split names all faces"):
        record(desk, [{"kind": "rename", "faces": [people[3]], "name": "Ann"}, {"kind": "split", "faces": [people[3]]}])
