"""Tests the page with questions: an answer has the result of `likeness decide`, and each act updates the queue."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import curate.review.ask.asker
import curate.review.server
from curate.decisions.decide import apply_decisions_of
from curate.decisions.record import record_decisions
from curate.review.ask.asker import make_request
from curate.review.ask.question import FACE, Question
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Identity, Membership
from tests.doubles.curation import contents, rows
from tests.doubles.review.client import Review, review_dataset


def ask(review: Review) -> dict[str, Any]:
    answer: dict[str, Any] = review.get("/api/ask")
    return answer


def reply(review: Review, question: dict[str, Any], word: str) -> dict[str, Any]:
    answer = review.client.post("/api/ask", json={"question": question["id"], "answer": word})
    assert answer.status_code == 200, answer.text
    next_one: dict[str, Any] = answer.json()
    return next_one


def list_faces(question: dict[str, Any]) -> list[set[str]]:
    return [{face["id"] for face in side["faces"]} for side in question["sides"]]


def muddle(dataset: Path) -> tuple[list[str], str]:
    """Puts a face of the first person into the second person, and makes two faces of the third person a new person.

    Returns the two faces of the new person, and the wrong face in the second person.
    """
    people: dict[str, list[str]] = {}
    for row in rows(dataset, Membership):
        people.setdefault(row.identity_id, []).append(row.face_id)
    one, other, third = sorted(people)[:3]
    wrong, half = people[one][0], people[third][:2]
    with Ledger.open(dataset, write=True) as ledger:
        members = {row.face_id: row for row in ledger.read_rows(Membership)}
        changed = [Membership(wrong, other, members[wrong].confidence, members[wrong].margin)]
        changed += [Membership(face, "p-000000000000", 0.9, 0.5) for face in half]
        ledger.record("muddled", "all", {}, [*changed, Identity("p-000000000000")])
    return half, wrong


def test_answers_are_decisions_and_the_queue_follows(dataset: Path, tmp_path: Path) -> None:
    half, wrong = muddle(dataset)
    twin = tmp_path / "twin"
    shutil.copytree(dataset, twin)
    requests = []
    with review_dataset(dataset) as review:
        assert review.client.get("/ask").status_code == 200
        seen = set()
        asked = ask(review)
        for _ in range(12):
            question = asked["question"]
            if question is None:
                break
            assert question["id"] not in seen
            seen.add(question["id"])
            one, other = list_faces(question)
            if question["kind"] == "people" and set(half) in (one, other):
                word = "yes"
                requests.append({"kind": "merge", "sides": [side["person"] for side in question["sides"]]})
            elif question["kind"] == "face" and one == {wrong}:
                word = "no"
                requests.append({"kind": "split", "faces": [wrong]})
            else:
                word = "skip"
            likely, asked = asked["likely"], reply(review, question, word)
            assert asked["likely"] <= likely or word != "skip"
        assert [request["kind"] for request in requests] == [row.kind for row in rows(dataset, DecisionRow)]
        assert {request["kind"] for request in requests} == {"merge", "split"}
    # `decide` would group the faces after the first request. This grouping would also correct the other errors, so the
    # test records the requests first, and applies them together.
    for request in requests:
        record_decisions(twin, [request])
    apply_decisions_of(twin)
    kept = [{name: table for name, table in contents(one).items() if name != "stages"} for one in (dataset, twin)]
    assert kept[0] == kept[1]


def test_an_answer_can_be_undone_and_an_old_question_is_refused(dataset: Path) -> None:
    half, _ = muddle(dataset)
    with review_dataset(dataset) as review:
        first = ask(review)["question"]
        while set(half) not in list_faces(first):
            first = reply(review, first, "skip")["question"]
        second = reply(review, first, "no")["question"]
        assert rows(dataset, DecisionRow)[-1].kind == "apart"
        refused = review.client.post("/api/ask", json={"question": first["id"], "answer": "yes"})
        assert refused.status_code == 409 and "have changed" in refused.json()["error"]
        assert (
            "yes, no, mixed or skip"
            in review.client.post("/api/ask", json={"question": "x", "answer": "maybe"}).json()["error"]
        )
        for body in ("[1]", "{", '{"answer": "yes"}'):
            assert (
                review.client.post("/api/ask", content=body, headers={"content-type": "application/json"}).status_code
                == 409
            )
        assert review.client.post("/api/ask", content="{}").status_code == 415
        review.act(act="undo")
        assert ask(review)["question"] == first != second
        assert len(rows(dataset, DecisionRow)) == 2


def test_the_notices_of_an_answer_are_sent(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    muddle(dataset)
    with review_dataset(dataset) as review:
        question = ask(review)["question"]
        monkeypatch.setattr(review.session, "record", lambda requests: ["Decision 1 (move) is taken back in part."])
        assert reply(review, question, "no")["notices"] == ["Decision 1 (move) is taken back in part."]


def test_mixed_opens_a_person_of_the_question_and_records_nothing(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curate.review.server, "_QUESTIONS_AFTER", 0.0)
    half, _ = muddle(dataset)
    with review_dataset(dataset) as review:
        pages = review.client.app._app  # type: ignore[attr-defined]
        pages.state.first_page.clear()
        thread = threading.Thread(target=curate.review.server._make_questions, args=(pages,))
        thread.start()
        review.client.get("/")  # the server makes the queue only after it has sent the first page
        thread.join()
        # the test would fail if the queue were made a second time
        monkeypatch.setattr(curate.review.ask.asker, "Questions", None)
        question = ask(review)["question"]
        while set(half) not in list_faces(question):
            question = reply(review, question, "skip")["question"]
        answer = reply(review, question, "mixed")
        people = {side["person"] for side in question["sides"]}
        assert answer["open"] in people and answer["question"] != question and rows(dataset, DecisionRow) == []
        assert review.client.get(f"/person/{answer['open']}?mixed=1").status_code == 200
        asked = answer["question"]
        while asked is not None:  # no later question is about the mixed person, because the person has not changed
            assert answer["open"] not in {side["person"] for side in asked["sides"]}
            asked = reply(review, asked, "skip")["question"]


def test_yes_to_a_face_is_a_decision_that_later_runs_keep(dataset: Path) -> None:
    with review_dataset(dataset) as review:
        people = review.session.read().people
        person, own = next(iter(sorted(people.members.items())))
        before = dict(people.identity_of)
        question = Question(FACE, (own[0],), tuple(own[1:]), (person,), 0.5, 0.3)
        review.decide(make_request(question, True, review.session.read()))
        assert review.session.read().people.identity_of == before
        apply_decisions_of(dataset)
        assert {row.face_id: row.identity_id for row in rows(dataset, Membership)} == before
        assert {row.face_id for row in rows(dataset, Membership) if row.source == "review"} == set(own)
        assert not any(
            list_faces(one)[0] == {own[0]}
            for one in [ask(review)["question"]]
            if one is not None and one["kind"] == "face"
        )


def test_locked_people_and_settled_people_leave_no_question(dataset: Path) -> None:
    with review_dataset(dataset) as review:
        for row in review.list_people():
            review.decide({"kind": "lock", "faces": [row["id"]]})
        asked = ask(review)
        assert asked["question"] is None and asked["likely"] == 0
