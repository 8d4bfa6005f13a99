"""Tests the threshold that is calibrated on people who are known."""

import numpy as np
import pytest

from curate.people.clustering.threshold import (
    MIN_TAIL_FACTOR,
    TAIL_FACTOR,
    calibrate_on_people,
    measure_spread,
    measure_tail_factor,
)
from curate.people.leaks.dataset_faces import Rules, raise_threshold


def draw_crowd(people: int, each: int = 4) -> tuple[np.ndarray, list[str]]:
    """Returns unit rows (people * each, 64), and the person of each row. Two rows of one person have a cosine of .5."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(people), each)
    rows = rng.normal(size=(people, 64))[names] + rng.normal(size=(len(names), 64))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), [str(name) for name in names]


def test_more_people_need_a_higher_cosine() -> None:
    found = [calibrate_on_people(*draw_crowd(people)) for people in (10, 40, 160)]
    cosines = [one[0] for one in found if one is not None]
    assert len(cosines) == 3 and cosines == sorted(cosines) and cosines[0] < cosines[2] - 0.02
    # With these cosines, nearly all pairs of one person reach the threshold, and few pairs of strangers do.
    vectors, people = draw_crowd(40)
    assert found[1] is not None
    own = np.equal.outer(people, people)[np.triu_indices(len(people), 1)]
    reached = (vectors @ vectors.T)[np.triu_indices(len(people), 1)] >= found[1][0]
    assert reached[own].mean() > 0.8 and reached[~own].mean() == pytest.approx(found[1][1], abs=0.01)


def test_without_strangers_or_without_a_second_face_there_is_no_threshold() -> None:
    vectors, _ = draw_crowd(1, 40)
    assert calibrate_on_people(vectors, ["a"] * 40) is None
    vectors, _ = draw_crowd(40, 1)
    assert calibrate_on_people(vectors, [str(row) for row in range(40)]) is None


def test_the_threshold_of_a_set_is_raised_and_never_lowered() -> None:
    vectors, people = draw_crowd(40)
    rules = Rules(6, 0.35, 0.5, 54, 40, 0.8, same_person=0.1, false_match_rate=0.2)
    raised = raise_threshold(rules, vectors, people)
    assert raised.same_person > 0.1 and raised.false_match_rate < 0.2 and raised.max_face_bits == 54
    strict = Rules(6, 0.35, 0.5, 54, 40, 0.8, same_person=0.9, false_match_rate=0.0)
    assert raise_threshold(strict, vectors, people) == strict


def test_the_tail_of_a_large_collection_is_measured_between_two_limits() -> None:
    rng = np.random.default_rng(0)

    def measure(vectors: np.ndarray) -> float:
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        spread = measure_spread(vectors)
        assert spread is not None
        return measure_tail_factor(vectors, spread)

    strangers = rng.normal(size=(1500, 128))
    assert measure(strangers) == MIN_TAIL_FACTOR
    alike = strangers + 0.9 * np.abs(rng.normal(size=(1500, 1))) * rng.normal(size=128) * 0.4
    assert MIN_TAIL_FACTOR < measure(alike) <= TAIL_FACTOR
    few_people = np.repeat(rng.normal(size=(10, 128)), 150, axis=0) + 0.5 * rng.normal(size=(1500, 128))
    assert measure(few_people) == TAIL_FACTOR
