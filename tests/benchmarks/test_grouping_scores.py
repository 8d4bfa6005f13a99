"""Tests the scores of groupings against their definitions."""

import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from grouping_scores import score_bcubed, score_grouping, score_pairs

labelled = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30)


@given(labelled)
def test_scores_are_those_of_their_definitions(faces):
    truth, found = np.array(faces).T
    same = [(truth[a] == truth[b], found[a] == found[b]) for a, b in combinations(range(len(faces)), 2)]
    both, said, true = sum(t and f for t, f in same), sum(f for _, f in same), sum(t for t, _ in same)
    assert score_pairs(truth, found)[:2] == pytest.approx((both / max(said, 1), both / max(true, 1)))
    precision = np.mean([np.mean(truth[found == found[i]] == truth[i]) for i in range(len(faces))])
    recall = np.mean([np.mean(found[truth == truth[i]] == found[i]) for i in range(len(faces))])
    assert score_bcubed(truth, found)[:2] == pytest.approx((precision, recall))


def test_a_perfect_grouping_scores_one_whatever_its_labels_are():
    row = score_grouping(["b", "a", "b"], np.array([7, 3, 7]))
    assert {row[key] for key in ("pair_p", "pair_r", "pair_f", "bcubed_p", "bcubed_r", "bcubed_f")} == {1.0}
    assert (row["groups"], row["people"], row["faces"]) == (2, 2, 3)
