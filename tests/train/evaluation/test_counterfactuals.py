"""Tests which references each row of the counterfactuals gets. Checks paired differences by hand calculations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from train.evaluation.results.aggregate import average_differences, average_systems
from train.evaluation.sets.cases import Case
from train.evaluation.systems.system import (
    list_counterfactual_differences,
    list_counterfactual_systems,
    list_differences,
    list_systems,
    select_references,
)

PICTURE = np.zeros((8, 8, 3), np.uint8)


def case(right: int = 3, wrong: int = 3) -> Case:
    def photos(count: int, first: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        pictures = tuple(np.full((8, 8, 3), first + place, np.uint8) for place in range(count))
        return pictures, np.full((count, 4), first, np.float32)

    ours, theirs = photos(right, 10), photos(wrong, 100)
    return Case("f", "p", PICTURE, PICTURE, *ours, theirs[0], theirs[1] if wrong else None, "q" if wrong else None)


def embed(crops: Sequence[np.ndarray]) -> np.ndarray:
    return np.full((len(crops), 4), 7, np.float32)


def row(key: str, face: str, person: str, value: float) -> dict:
    return {"key": key, "system": key, "face_id": face, "identity_id": person, "reason": None, "score": value}


def test_fewer_references_are_the_first_of_more_and_wrong_ones_are_anothers() -> None:
    levels = {}
    for system in list_systems(3, (0, 1, 2, 3, 9)):
        references = select_references(case(), system, embed)
        assert references is not None and len(references.crops) == len(references.embeddings) == system.references
        levels[system.key] = [int(crop[0, 0, 0]) for crop in references.crops]
    assert levels == {"lq": [], "0": [], "1": [10], "2": [10, 11], "3": [10, 11, 12], "wrong3": [100, 101, 102]}


@pytest.mark.parametrize("references", range(1, 9))
def test_every_departure_has_the_right_references_to_be_compared_with(references: int) -> None:
    keys = [system.key for system in list_counterfactual_systems(references)]
    assert len(set(keys)) == len(keys) and {"0", "1", "2", "4", "8"} <= set(keys)
    assert {key for _, *pair in list_counterfactual_differences(references) for key in pair} <= set(keys)
    # The row with shuffled references comes after the row with the usual order.
    assert keys.index(f"shuffled{references}") > keys.index(str(references))


def test_where_there_is_nobody_else_there_are_no_wrong_references() -> None:
    *_, right, wrong = list_systems(3)
    alone = case(wrong=0)
    assert select_references(alone, wrong, embed) is None and select_references(alone, right, embed) is not None


def test_a_difference_is_that_of_the_same_image() -> None:
    people = [f"p{place % 6}" for place in range(12)]
    # The scores of two images differ by much more than the scores of the systems. Only paired differences show that the
    # systems differ.
    rows = [row("0", str(place), person, 100.0 * place) for place, person in enumerate(people)]
    rows += [row("4", str(place), person, 100.0 * place + 1 + place / 100) for place, person in enumerate(people)]
    (line,) = average_differences(rows, [("more", "4", "0"), ("absent", "4", "wrong4")], ["score"], 0)
    assert (line["difference"], line["images"], line["people"]) == ("more", 12, 6)
    assert line["score"]["mean"] == pytest.approx(1.055)
    assert line["score"]["excludes_zero"] and line["score"]["people_above"] == 6
    assert line["score"]["low"] <= 1.055 <= line["score"]["high"]
    (turned,) = average_differences(rows, [("less", "0", "4")], ["score"], 0)
    assert turned["score"]["mean"] == pytest.approx(-1.055)
    assert turned["score"]["excludes_zero"] and turned["score"]["people_above"] == 0


def test_an_interval_over_zero_is_not_marked() -> None:
    rows = [row("0", str(place), f"p{place}", 0.0) for place in range(8)]
    rows += [row("4", str(place), f"p{place}", (-1.0) ** place) for place in range(8)]
    (line,) = average_differences(rows, [("both ways", "4", "0")], ["score"], 0)
    assert not line["score"]["excludes_zero"] and line["score"]["people_above"] == 4


def test_too_few_images_are_never_marked_whatever_they_say() -> None:
    for count, marked in ((1, False), (4, False), (5, True)):
        rows = [row(key, str(place), "p", value) for key, value in (("0", 0.0), ("4", 2.0)) for place in range(count)]
        (line,) = average_differences(rows, [("more", "4", "0")], ["score"], 0)
        assert line["score"]["excludes_zero"] is marked and line["score"]["low"] == 2


def test_a_mean_of_fewer_people_says_over_what_its_interval_is() -> None:
    rows = [row("4", str(place), f"p{place // 2}", float(place) if place < 6 else math.nan) for place in range(12)]
    (line,) = average_systems(rows, ["score"], 0)
    assert (line["score"]["images"], line["score"]["people"], line["score"]["over"]) == (6, 3, "images")


def test_only_images_that_have_both_are_compared() -> None:
    rows = [row("4", str(place), f"p{place}", 2.0) for place in range(8)] + [row("wrong4", "3", "p3", 1.0)]
    (line,) = average_differences(rows, list_differences(4), ["score"], 0)
    assert (line["difference"], line["images"], line["people"]) == ("right - wrong", 1, 1)
