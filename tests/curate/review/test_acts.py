"""Tests that acts in the browser make the same decisions as `likeness decide`, and that undo works across restarts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.decisions.decide import apply_decisions_of, decide
from curate.decisions.record import record_decisions
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Membership
from tests.doubles.curation import contents, curated, find_problems, name_faces, photo, rows, save
from tests.doubles.review.client import Review, review_dataset


def describe(review: Review) -> set[tuple]:
    """Returns what the pages say about people and faces, without the ids of people.

    After the undo of a merge of two people with equally many faces, their ids may have changed places.
    """
    people = review.session.read().people
    described: set[tuple] = {
        (row["name"], row["locked"], tuple(people.members[row["id"]])) for row in review.list_people()
    }
    return described | {(face, row.status, row.reason) for face, row in people.faces.items()}


def strip(dataset: Path) -> dict[str, list]:
    """Returns the tables of the ledger, without the log of stages."""
    return {name: table for name, table in contents(dataset).items() if name != "stages"}


ACTS: dict[str, Callable[[dict[str, str], dict[str, str]], dict[str, Any]]] = {
    "rename": lambda face, person: {"kind": "rename", "faces": [person[face["0/0"]]], "name": "Ada"},
    "merge": lambda face, person: {"kind": "merge", "sides": [person[face["0/0"]], person[face["1/0"]]]},
    "split": lambda face, person: {"kind": "split", "faces": [face["2/0"], face["2/1"]]},
    "larger part": lambda face, person: {"kind": "split", "faces": [face["3/0"], face["3/1"], face["3/2"]]},
    "move": lambda face, person: {"kind": "move", "faces": [face["2/2"]], "to": person[face["0/0"]]},
    "drop": lambda face, person: {"kind": "drop", "faces": [face["1/4"]], "reason": "a drawing"},
    "lock": lambda face, person: {"kind": "lock", "faces": [face["3/0"]]},
}


def test_acts_give_the_ledger_that_decide_gives(dataset: Path, tmp_path: Path):
    twin = tmp_path / "twin"
    shutil.copytree(dataset, twin)
    with review_dataset(dataset) as review:
        face = name_faces(review.session.dataset)
        for name, make in ACTS.items():
            person = dict(review.session.read().people.identity_of)
            review.decide(make(face, person))
            decide(twin, [make(face, {row.face_id: row.identity_id for row in rows(twin, Membership)})])
            shown = dict(review.session.read().people.identity_of)
            assert shown == {row.face_id: row.identity_id for row in rows(twin, Membership)}, name
        assert review.get("/api/state")["state"]["unapplied"] == len(ACTS)
    assert strip(dataset) == strip(twin) and find_problems(dataset) == find_problems(twin)
    with Ledger.open(dataset) as ledger, Ledger.open(twin) as other:
        times = [{row.made for row in one.read_rows(DecisionRow)} for one in (ledger, other)]
    assert [len(made) for made in times] == [len(ACTS)] * 2


def test_undo_and_redo_go_back_and_forth_without_limit(dataset: Path):
    with review_dataset(dataset) as review:
        face, states = name_faces(review.session.dataset), [describe(review)]
        for make in ACTS.values():
            review.decide(make(face, review.session.read().people.identity_of))
            states.append(describe(review))
        for state in reversed(states[:-1]):
            review.act(act="undo")
            assert describe(review) == state
        assert review.refuse(act="undo") == "There is nothing to undo."
        for state in states[1:]:
            review.act(act="redo")
            assert describe(review) == state
        assert review.refuse(act="redo") == "There is nothing to redo."
        review.act(act="undo")
        assert describe(review) == states[-2]
        review.decide({"kind": "rename", "faces": [face["1/0"]], "name": "Eve"})
        assert review.refuse(act="redo") == "There is nothing to redo."


def test_undo_and_redo_work_after_a_restart(dataset: Path):
    with review_dataset(dataset) as review:
        face, before = name_faces(review.session.dataset), describe(review)
        person = review.session.read().people.identity_of
        review.decide({"kind": "merge", "sides": [person[face["0/0"]], person[face["1/0"]]]})
        merged = describe(review)
    with review_dataset(dataset) as review:  # the merge was applied when the first review ended
        assert describe(review) == merged and review.get("/api/state")["state"]["unapplied"] == 0
        review.act(act="undo")
        assert describe(review) == before
    with review_dataset(dataset) as review:
        assert describe(review) == before
        review.act(act="redo")
        assert describe(review) == merged


def test_one_undo_takes_a_whole_act_back(dataset: Path):
    with review_dataset(dataset) as review:
        face, before = name_faces(review.session.dataset), describe(review)
        review.decide(*({"kind": "split", "faces": [face[f"0/{n}"]]} for n in (0, 1)))
        assert len(review.list_people()) == 6
        review.act(act="undo")
        assert describe(review) == before


def test_a_killed_server_loses_no_decision(dataset: Path):
    review = Review(dataset)  # this review is never closed, as if its server had been killed
    face, person = name_faces(review.session.dataset), review.session.read().people.identity_of
    review.decide({"kind": "merge", "sides": [person[face["0/0"]], person[face["1/0"]]]})
    shown = describe(review)
    with review_dataset(dataset) as again:
        assert describe(again) == shown and again.get("/api/state")["state"]["unapplied"] == 1


def test_decisions_are_applied_when_nothing_happens(dataset: Path):
    with review_dataset(dataset, idle=0.05) as review:
        face = name_faces(review.session.dataset)
        review.decide({"kind": "split", "faces": [face["0/0"]]})
        for _ in range(100):
            if not review.get("/api/state")["state"]["unapplied"]:
                break
            review.session.wait()
            review.session._ended.wait(0.05)
        assert review.get("/api/state")["state"]["unapplied"] == 0
        assert len({row.identity_id for row in rows(dataset, Membership)}) == 5


def test_a_stale_page_gets_a_sentence_and_nothing_is_lost(dataset: Path):
    with review_dataset(dataset) as review:
        face, person = name_faces(review.session.dataset), dict(review.session.read().people.identity_of)
        review.decide({"kind": "drop", "faces": [face["0/0"]]})
        assert "is not in use (decided)" in review.refuse(requests=[{"kind": "split", "faces": [face["0/0"]]}])
        one, other = sorted({person[face["1/0"]], person[face["2/0"]]})
        record_decisions(dataset, [{"kind": "merge", "sides": [one, other]}])
        apply_decisions_of(dataset)
        gone = ({one, other} - {row["id"] for row in review.list_people()}).pop()
        sentence = review.refuse(requests=[{"kind": "rename", "faces": [gone], "name": "Bob"}])
        assert sentence.startswith(f"There is no person with the id {gone}.")
        assert review.client.get(f"/person/{gone}").status_code == 404
        assert len(rows(dataset, DecisionRow)) == 2


def test_a_contradiction_is_refused_at_once(dataset: Path):
    with review_dataset(dataset) as review:
        face = name_faces(review.session.dataset)
        review.decide({"kind": "split", "faces": [face["0/0"]]})
        review.act(act="undo")
        review.decide({"kind": "lock", "faces": [face["0/0"]]})
        # without decision 2, the split would count again and contradict the lock
        sentence = review.refuse(requests=[{"kind": "undo", "undoes": 2}])
        person = review.session.read().people.identity_of[face["0/0"]]
        assert sentence == (
            f"Nothing is recorded: the lock of {person} says that two faces show one person, but the split of 1 face "
            f"from {person} says that they show two people."
        )
        assert len(rows(dataset, DecisionRow)) == 3


def test_the_pages_name_decisions_by_what_they_say(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    with review_dataset(dataset) as review:
        face, view = name_faces(dataset), review.session.read()
        second, third = (view.people.identity_of[face[name]] for name in ("1/0", "2/0"))
        review.decide({"kind": "rename", "faces": [third], "name": "Ann"})
        review.decide({"kind": "move", "faces": [face["0/0"]], "to": second})
        both = review.decide({"kind": "move", "faces": [face["0/0"]], "to": third}, {"kind": "lock", "faces": [third]})
        assert both["notices"] == [f"The move of 1 face to {second} is taken back in part."]
        assert both["state"]["undo"] == "lock, move"
        assert review.get(f"/api/faces/{face['0/0']}")["why"] == (
            f"The move of 1 face to {second}; the move of 1 face to Ann; the lock of Ann."
        )
        sentence = review.refuse(requests=[{"kind": "undo", "undoes": 9}])
        assert sentence.startswith("There is no decision 9.")
        undone = review.act(act="undo")
        assert undone["sentence"] == (f"Undone: 2 decisions (lock, move). The move of 1 face to {second} counts again.")
        assert undone["state"]["redo"] == "lock, move"
        assert "of 1 face to Ann is already taken back by the undo of the move of" in review.refuse(
            requests=[{"kind": "undo", "undoes": 3}]
        )
        review.act(act="redo")
        # the faces of each decision are looked up only once, even if the decision is taken back in part
        decided = view.find_decided_people()
        view._decided = None
        monkeypatch.setattr(view.people, "finder", None)
        assert view.find_decided_people() == decided


def test_a_name_that_another_person_has_is_allowed_with_a_sentence(dataset: Path):
    with review_dataset(dataset) as review:
        face = name_faces(review.session.dataset)
        assert review.decide({"kind": "rename", "faces": [face["0/0"]], "name": "Ann"})["notices"] == []
        (sentence,) = review.decide({"kind": "rename", "faces": [face["1/0"]], "name": "ann"})["notices"]
        assert sentence.startswith("Another person has this name too (p-")
        assert [row["name"] for row in review.list_people(order="name")[:2]] == ["Ann", "ann"]
    told = decide(dataset, [{"kind": "rename", "faces": [face["2/0"]], "name": "Ann"}]).notices
    assert told[0].startswith("2 other people have this name too (p-")


def test_the_people_who_are_most_like_some_faces_are_listed(dataset: Path):
    with review_dataset(dataset) as review:
        face, person = name_faces(review.session.dataset), dict(review.session.read().people.identity_of)
        one, other = person[face["0/0"]], person[face["1/0"]]
        review.decide({"kind": "move", "faces": [face["1/0"]], "to": one})
        asked = {"faces": [face["1/0"]], "without": [one]}
        found = review.client.post("/api/similar", json=asked).json()["rows"]
        assert found[0]["id"] == other and found[0]["cosine"] > 0.9 and one not in {row["id"] for row in found}
        searched = review.client.post("/api/similar", json={**asked, "search": "p-"}).json()["rows"]
        assert [row["id"] for row in searched] == [row["id"] for row in found]
        assert review.client.post("/api/similar", json={"faces": "all"}).status_code == 409
        facts = review.get(f"/api/faces/{face['1/0']}")
        assert facts["closest"]["id"] == other and facts["own"] < facts["closest"]["cosine"]
    decide(dataset, [{"kind": "drop", "faces": [face["0/0"]]}])
    with review_dataset(dataset) as review:
        review.act(act="undo")  # after the undo, the face is in use, but its embedding is not in memory
        again = {"faces": [face["0/0"]], "without": [one], "search": other}
        (row,) = review.client.post("/api/similar", json=again).json()["rows"]
        assert row["id"] == other and "cosine" not in row


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"act": "format"},
        {"requests": []},
        {"requests": ["merge"]},
        {"requests": [{"kind": "format"}]},
        {"requests": [{"kind": "rename", "faces": ["p-"], "name": "x"}]},
        {"requests": [{"kind": "rename", "faces": {"photo": 1}, "name": "x"}]},
        {"requests": [{"kind": "undo", "undoes": 99}]},
    ],
)
def test_a_malformed_act_is_refused_with_a_sentence(dataset: Path, body: Any):
    with review_dataset(dataset) as review:
        answer = review.client.post("/api/act", json=body)
        assert answer.status_code == 409 and answer.json()["error"].endswith(".")
        assert rows(dataset, DecisionRow) == []
        assert (
            review.client.post("/api/act", content=b"{", headers={"content-type": "application/json"}).status_code
            == 409
        )
        assert review.client.post("/api/act", data={"act": "undo"}).status_code == 415


def test_names_are_checked(dataset: Path):
    with review_dataset(dataset) as review:
        face = name_faces(review.session.dataset)["0/0"]
        review.decide({"kind": "rename", "faces": [face], "name": "A" * 100})
        assert review.list_people(order="name")[0]["name"] == "A" * 100
        for name in ("", " ", "A" * 256, "two\nlines", 7):
            assert "Give a name on one line" in review.refuse(
                requests=[{"kind": "rename", "faces": [face], "name": name}]
            )


def test_faces_that_join_a_person_wait_until_they_are_seen(dataset: Path, curated_once: Path, tmp_path: Path):
    shutil.copytree(curated_once / "photos", tmp_path / "photos")
    curated(tmp_path / "photos", dataset)  # records the new paths of the photos, which have moved
    with review_dataset(dataset) as review:
        assert review.get("/api/state")["state"]["joined"] == 0
        face = name_faces(review.session.dataset)
        person = review.session.read().people.identity_of[face["0/0"]]
        review.decide({"kind": "move", "faces": [face["1/0"]], "to": person})
    save(tmp_path / "photos" / "person0" / "later.png", photo([0], 77))
    save(tmp_path / "photos" / "stranger.png", photo([9], 5))
    curated(tmp_path / "photos", dataset)
    for _ in range(2):  # both visits show the same new face, because it was not marked as seen
        with review_dataset(dataset) as review:
            (row,) = review.list_people(show="joined")
            assert row["id"] == person and row["joined"] == 1
            (joined,) = review.get(f"/api/people/{person}/faces", show="joined")["rows"]
            assert joined["file"] == "later.png"
    with review_dataset(dataset) as review:
        assert review.act(act="seen", person=person)["sentence"] == "1 face marked as seen."
        assert review.list_people(show="joined") == []
    with review_dataset(dataset) as review:
        assert review.get("/api/state")["state"]["joined"] == 0


def test_two_people_are_proposed_and_similar_people_are_listed(dataset: Path):
    with review_dataset(dataset) as review:
        face, person = name_faces(review.session.dataset), dict(review.session.read().people.identity_of)
        one, other = person[face["0/0"]], person[face["1/0"]]
        review.decide({"kind": "move", "faces": [face["1/0"], face["1/1"]], "to": one})
        assert review.get(f"/api/people/{one}/two")["faces"] == sorted([face["1/0"], face["1/1"]])
        rows_near = review.get(f"/api/people/{one}/closest")["rows"]
        assert rows_near[0]["id"] == other and len(rows_near) == 3
        assert [row["cosine"] for row in rows_near] == sorted((row["cosine"] for row in rows_near), reverse=True)
        assert review.get("/api/people/unknown/two")["faces"] == []


def test_the_split_of_a_person_is_chosen_and_undone(dataset: Path):
    with review_dataset(dataset) as review:
        person = next(row for row in review.list_people() if row["split"] != "val")
        review.decide({"kind": "assign", "faces": [person["id"]], "split": "val"})
        assert review.get(f"/api/people/{person['id']}")["person"]["split"] == "val"
        review.act(act="undo")
        assert review.get(f"/api/people/{person['id']}")["person"]["split"] == person["split"]
        review.act(act="redo")
    with review_dataset(dataset) as review:
        assert review.get(f"/api/people/{person['id']}")["person"]["split"] == "val"
