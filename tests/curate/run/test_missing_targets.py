"""Tests that a dataset without targets gets a message with the cause and with advice that fits the cause."""

from __future__ import annotations

import pytest

from curate.people.split.faces_set_aside import PHOTO_SPANS_SPLITS
from curate.run.summary import describe_missing_targets
from manifests.ledger.records import Split

ASIDE = [Split(str(n), "p", "train", "identity", status="dropped", reason=PHOTO_SPANS_SPLITS) for n in range(4)]


@pytest.mark.parametrize(
    "left_out, changes, splits, notice",
    [
        ({}, {}, ASIDE, "No face is a target: 4 photo_spans_splits. Add photos that show one person each."),
        (
            {"too_few_photos": 3},
            {"min_photos": 5},
            [],
            "No face is a target: 3 too_few_photos. Give a number below 5 for --min-photos.",
        ),
        (
            {"too_few_references": 3, "outside_photo": 2},
            {"policy": "window:0.1-0.2"},
            [],
            "No face is a target: 3 too_few_references, 2 outside_photo. Give a wider window than --pairs "
            "window:0.1-0.2. Give --filters keep-outside.",
        ),
        (
            {"too_few_references": 3},
            {"policy": "across-ages"},
            [],
            "No face is a target: 3 too_few_references. --pairs across-ages needs two photos of a person, at least 5 "
            "years apart, with dates that can be trusted. Give --pairs random.",
        ),
    ],
)
def test_the_advice_fits_the_cause(left_out: dict, changes: dict, splits: list[Split], notice: str) -> None:
    pairing = {"policy": "random", "min_photos": 2, "min_references": 1, "left_out": left_out, **changes}
    assert describe_missing_targets(pairing, splits) == notice
