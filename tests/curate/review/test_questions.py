"""Tests the queue of questions: what it asks first, and that answers and other changes of the people update it."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from curate.people.clustering.threshold import Evidence
from curate.review.ask.question import FACE, PARTS, PEOPLE, Odds, Question
from curate.review.ask.questions import LIKELY, Questions

ODDS = Odds(Evidence(spread=0.11, mean_within=0.55), log_alpha=2.0)
DIMENSIONS = 64


def draw_faces(people: list[int], seed: int = 0) -> np.ndarray:
    """Returns one unit vector for each entry of `people`. Faces of one person have a mean cosine of about .55."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0][: max(people) + 1]
    noise = rng.normal(size=(len(people), DIMENSIONS)) / np.sqrt(DIMENSIONS) * 0.9
    vectors = (centres[people] + noise).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_queue(truth: list[int], groups: list[int], **options: object) -> Questions:
    names = [f"f{row:03}" for row in range(len(truth))]
    people = {name: f"p{group}" for name, group in zip(names, groups, strict=True)}
    return Questions(names, draw_faces(truth), people, ODDS, **options)  # type: ignore[arg-type]


def list_all(queue: Questions) -> list[Question]:
    return list(queue.iterate())


def test_the_question_with_most_pairs_comes_first_and_the_rest_is_settled() -> None:
    # Person 0 is wrongly divided into two people with 6 faces each, and person 1 into two people with one face each.
    queue = make_queue([0] * 12 + [1, 1], [0] * 6 + [1] * 6 + [2, 3])
    first = queue.find_next()
    assert first is not None and first.kind == PEOPLE and set(first.people) == {"p0", "p1"}
    assert first.gain == pytest.approx(first.probability * 36) and first.probability > 0.9
    likely = queue.count_likely()
    queue.follow(dict.fromkeys(first.one, first.people[1]))
    second = queue.find_next()
    assert second is not None and set(second.people) == {"p2", "p3"} and queue.count_likely() < likely
    queue.keep_apart(second.one, second.other)
    assert not any(set(one.people) == {"p2", "p3"} for one in list_all(queue))


def test_a_face_and_a_part_that_do_not_fit_are_asked_about() -> None:
    queue = make_queue([0] * 10 + [1], [0] * 11)
    face = queue.find_next()
    assert face is not None and face.kind == FACE and face.one == ("f010",) and len(face.other) == 10
    queue.keep_together(face.one, face.other)
    assert not any(one.kind == FACE and one.one == face.one for one in list_all(queue))

    mixed = make_queue([0] * 8 + [1] * 5, [0] * 13)
    parts = mixed.find_next()
    assert parts is not None and parts.kind == PARTS and set(parts.one) == {f"f{row:03}" for row in range(8, 13)}
    mixed.follow(dict.fromkeys(parts.one, "p1"))
    mixed.keep_apart(parts.one, parts.other)
    assert not any(one.kind == PARTS and one.probability > 0.5 for one in list_all(mixed))
    assert not any(one.kind == PEOPLE for one in list_all(mixed))


def test_locked_people_unclear_faces_and_skipped_questions_are_left_out() -> None:
    truth, groups = [0] * 6 + [1] * 3, [0] * 3 + [1] * 3 + [2] * 3
    queue = make_queue(truth, groups)
    first = queue.find_next()
    assert first is not None and set(first.people) == {"p0", "p1"}
    queue.skip(first)
    assert queue.find_next() != first
    queue.follow({"f000": None})  # this change of the person makes the queue ask the skipped question again
    again = queue.find_next()
    assert again is not None and set(again.people) == {"p0", "p1"} and len(again.one) == 2
    queue.set_locked(["p0"])
    assert not any("p0" in one.people for one in list_all(queue))
    unclear = make_queue(truth, groups, unclear=["f000", "f001", "f002"])
    assert not any("p0" in one.people for one in list_all(unclear))


def test_a_mixed_person_is_put_away_until_the_person_changes() -> None:
    # The faces of p0 are of person 0 and of person 1. The faces of p1 are only of person 0.
    queue = make_queue([0] * 5 + [1] * 5 + [0] * 3, [0] * 10 + [1] * 3)
    question = next(one for one in queue.iterate() if one.kind == PEOPLE)
    assert set(question.people) == {"p0", "p1"} and queue.put_away_mixed(question) == "p0"
    assert not any("p0" in one.people for one in queue.iterate())
    queue.follow(dict.fromkeys([f"f{row:03}" for row in range(5, 10)], "p2"))
    assert any(one.kind == PEOPLE and set(one.people) == {"p0", "p1"} for one in queue.iterate())


def test_two_people_in_one_photo_are_less_likely_one_person() -> None:
    truth, groups = [0] * 4, [0] * 2 + [1] * 2
    alone = make_queue(truth, groups, photo_of={"f000": "a", "f001": "b", "f002": "c", "f003": "d"}).find_next()
    together = make_queue(truth, groups, photo_of={"f000": "a", "f001": "b", "f002": "a", "f003": "d"})
    assert alone is not None and alone == make_queue(truth, groups).find_next() and alone.kind == PEOPLE
    (question,) = [one for one in together.iterate() if one.kind == PEOPLE]
    assert question.cosine < alone.cosine - 0.2 and question.probability < alone.probability


@pytest.mark.parametrize("seed", range(5))
def test_the_queue_after_changes_is_the_queue_of_the_changed_people(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, groups = rng.integers(0, 4, 24), rng.integers(0, 6, 24)
    queue = make_queue(truth.tolist(), groups.tolist())
    for _ in range(12):
        moved = rng.integers(0, 24, rng.integers(1, 5))
        groups[moved] = rng.integers(0, 8)
        queue.follow({f"f{row:03}": f"p{groups[row]}" for row in moved})
    fresh = make_queue(truth.tolist(), groups.tolist())
    answered = deepcopy(queue)
    for change in range(12):  # after every answer, the count of the questions that are left must be right
        question = next((one for one in answered.iterate() if one.probability >= LIKELY), None)
        if question is None:
            break
        match change % 4:
            case 0 if question.kind == PEOPLE:
                answered.keep_apart(question.one, question.other)
            case 1 if question.kind != PEOPLE:
                answered.keep_together(question.one, question.other)
            case 2:
                answered.put_away_mixed(question)
            case _:
                answered.skip(question)
        answered.set_locked([f"p{change % 3}"] if change % 2 else [])
        left = {(one.kind, one.people, one.one) for one in answered.iterate() if one.probability >= LIKELY}
        assert answered.count_likely() == len(left)

    def describe(questions: list[Question]) -> set[tuple[object, ...]]:
        return {(one.kind, frozenset(one.people), frozenset(one.one), round(one.gain, 3)) for one in questions}

    assert {(kind, people, gain) for kind, people, _, gain in describe(list_all(queue)) if kind == PEOPLE} == {
        (kind, people, gain) for kind, people, _, gain in describe(list_all(fresh)) if kind == PEOPLE
    }
    assert {one for one in describe(list_all(queue)) if one[0] != PEOPLE} == {
        one for one in describe(list_all(fresh)) if one[0] != PEOPLE
    }
    assert queue.count_likely() == fresh.count_likely()


def test_no_faces_and_one_person_leave_nothing_to_ask() -> None:
    assert Questions([], np.zeros((0, 0), np.float32), {}, ODDS).find_next() is None
    assert make_queue([0], [0]).find_next() is None and make_queue([0], [0]).count_likely() == 0
