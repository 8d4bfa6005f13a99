"""Tests the batches of curation, and the results that one transaction records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.photos.batches import LEAST_A_BATCH, collect, split_into_batches


@given(st.integers(0, 500), st.integers(LEAST_A_BATCH, 40))
def test_batches_have_all_items_in_order_and_become_smaller(count, size):
    batches = split_into_batches(range(count), size)
    assert [item for batch in batches for item in batch] == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert sizes == sorted(sizes, reverse=True) and all(0 < one <= size for one in sizes)
    if count:
        assert sizes[-1] <= LEAST_A_BATCH
    if count >= 2 * size:
        assert sizes[0] == size


def test_results_of_a_second_are_one_list(monkeypatch):
    assert list(collect([])) == []
    now = iter([0.0, 0.4, 0.8, 1.2, 1.2, 9.0, 9.0, 9.1])
    monkeypatch.setattr("curate.photos.batches.time.monotonic", lambda: next(now))
    assert list(collect("abcde")) == [["a", "b", "c"], ["d"], ["e"]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_results_before_an_error_are_not_lost(error):
    def fail():
        yield 1
        yield 2
        raise error

    found = []
    with pytest.raises(error):
        found.extend(collect(fail()))
    assert found == [[1, 2]]
