"""Tests the copy ratio and the takeover on results that copy a reference and on results that do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from train.metrics.reference_copying import SAME_IMAGE_DISTANCE, copy_ratio, takeover

ROW = arrays(np.float64, (4,), elements=st.floats(-1, 1)).filter(lambda row: np.abs(row).max() > 0.1)


def units(*rows: tuple[float, ...]) -> np.ndarray:
    found = np.array(rows, float)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ratio(result: np.ndarray, target: np.ndarray, references: np.ndarray) -> float:
    return copy_ratio(result[None], target[None], [references])[0]


def test_by_hand() -> None:
    # The cosine of reference and target is .6. The result lies between the reference and the target.
    target, reference = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    result = np.array([0.8, 0.6])
    # The cosine of the result is .96 to the reference and .8 to the target. The ratio is (.96 - .8) / (1 - .6).
    assert ratio(result, target, reference[None]) == pytest.approx(0.16 / 0.4)
    # A result that is unlike the reference is not a copy.
    assert ratio(np.array([0.0, -1.0]), target, reference[None]) == 0


@given(ROW, ROW)
def test_the_target_has_none_and_a_reference_all_of_it(target: np.ndarray, reference: np.ndarray) -> None:
    t, r = units(target, reference)
    assume(1 - t @ r > 2 * SAME_IMAGE_DISTANCE)
    assert ratio(target, target, reference[None]) == pytest.approx(0, abs=1e-9)
    assert ratio(reference, target, reference[None]) == pytest.approx(1, abs=1e-9)


@given(ROW, ROW, ROW, ROW)
def test_it_is_a_share_and_more_references_never_lower_it(
    result: np.ndarray, target: np.ndarray, first: np.ndarray, second: np.ndarray
) -> None:
    one, both = ratio(result, target, first[None]), ratio(result, target, np.stack([first, second]))
    assert math.isnan(both) or 0 <= both <= 1
    assert math.isnan(one) or one <= both + 1e-12


def test_it_grows_on_the_way_from_the_target_to_a_reference() -> None:
    target, reference = units((1, 0, 0), (1, 1, 0))
    way = [ratio((1 - part) * target + part * reference, target, reference[None]) for part in np.linspace(0, 1, 9)]
    assert way == sorted(way) and way[0] == 0 and way[4] == pytest.approx(0, abs=1e-9) and way[-1] == pytest.approx(1)


def test_a_reference_that_is_the_target_says_nothing() -> None:
    target, other = units((1, 0), (0, 1))
    assert math.isnan(ratio(target, target, target[None]))
    assert math.isnan(ratio(target, target, np.zeros((0, 2))))
    assert ratio(other, target, np.stack([target, other])) == pytest.approx(1)


def test_takeover() -> None:
    target, wrong, between = units((1, 0), (0, 1), (1, 1))
    results = np.stack([target, wrong, between])
    assert takeover(results, np.stack([target] * 3), [wrong[None]] * 3) == [0, 1, 0]
    assert takeover(between[None], target[None], [np.stack([wrong, units((1, 0.9))[0]])]) == [1]
    assert math.isnan(takeover(target[None], target[None], [np.zeros((0, 2))])[0])
