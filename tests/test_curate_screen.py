"""Each rule drops what breaks it, with its own reason, and nothing else."""

from dataclasses import fields, replace

import pytest

from curate.config import ScreenRules
from curate.screen import REASONS, screen
from manifests.records import Face

SIZE = (400, 300)
GOOD = Face(
    "f", "p", (100.0, 100.0, 200.0, 200.0), (0.0,) * 10, None, 0.9, 40.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 3.0, "0"
)
RULES = ScreenRules(min_det_score=0.5)


def test_a_good_face_passes():
    assert screen(GOOD, RULES, SIZE) is None


@pytest.mark.parametrize(
    ("reason", "bad", "just"),
    [
        ("too_small", {"inter_ocular_px": 15.9}, {"inter_ocular_px": 16.0}),
        ("low_score", {"det_score": 0.49}, {"det_score": 0.5}),
        ("turned_away", {"yaw": 75.1}, {"yaw": 75.0}),
        ("turned_away", {"yaw": -75.1}, {"yaw": -75.0}),
        ("turned_away", {"pitch": 60.1}, {"pitch": 60.0}),
        ("turned_away", {"pitch": -60.1}, {"pitch": -60.0}),
        ("too_blurred", {"sharpness": 0.119}, {"sharpness": 0.12}),
        ("too_dark", {"exposure": 0.079}, {"exposure": 0.08}),
        ("too_bright", {"exposure": 0.951}, {"exposure": 0.95}),
        ("cut_by_border", {"box": (-26.0, 100.0, 74.0, 200.0)}, {"box": (-24.0, 100.0, 76.0, 200.0)}),
        ("cut_by_border", {"box": (326.0, 100.0, 426.0, 200.0)}, {"box": (324.0, 100.0, 424.0, 200.0)}),
        ("cut_by_border", {"box": (100.0, -26.0, 200.0, 74.0)}, {"box": (100.0, -24.0, 200.0, 76.0)}),
        ("cut_by_border", {"box": (100.0, 226.0, 200.0, 326.0)}, {"box": (100.0, 224.0, 200.0, 324.0)}),
    ],
)
def test_each_reason_one_by_one(reason, bad, just):
    assert reason in REASONS
    assert screen(replace(GOOD, **bad), RULES, SIZE) == reason
    assert screen(replace(GOOD, **just), RULES, SIZE) is None


def test_without_a_score_rule_any_score_passes():
    assert screen(replace(GOOD, det_score=-3.0), ScreenRules(), SIZE) is None


def test_every_rule_and_every_reason_has_a_test():
    marks = test_each_reason_one_by_one.pytestmark[0].args[1]
    assert {reason for reason, *_ in marks} == set(REASONS)
    assert len(fields(ScreenRules)) == 8


def test_roll_is_never_a_reason():
    assert screen(replace(GOOD, roll=180.0), RULES, SIZE) is None
