"""Tests the sums of rows."""

import numpy as np

from curate.people.clustering.components import sum_rows


def test_sums_do_not_depend_on_where_the_rows_lie():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(400, 32)).astype(np.float32), np.arange(400) % 7
    sums = sum_rows(rows, np.arange(400), labels)
    assert np.abs(sums[3] - rows[labels == 3].sum(0)).max() < 1e-4
    place = rng.permutation(400)
    moved = np.empty_like(rows)
    moved[place] = rows
    assert np.array_equal(sum_rows(moved, place, labels), sums)
