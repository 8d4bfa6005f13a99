"""Tests the benchmark that calibrates the limits of train/restore/decisions/harm.py."""

from __future__ import annotations

import sys
from dataclasses import asdict

import numpy as np

from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from harm_limits import MEASURES, format_table, summarise

from train.restore.decisions.harm import LIMITS, HarmLimits


def make_row(better: bool, **values: float | None) -> dict[str, float | bool | None]:
    usual = {
        "fineness": 0.1,
        "sharpness_ratio": 1.5,
        "agreement": 35.0,
        "identity_gain": 0.05,
        "identity_to_input": None,
    }
    return {"better": better, "fineness_of_result": 0.2, **usual, **values}


def test_the_proposed_limit_passes_95_percent_of_the_better_results() -> None:
    rows = [make_row(True, sharpness_ratio=float(value)) for value in np.linspace(0.8, 1.8, 101)]
    rows += [make_row(False, sharpness_ratio=0.5) for _ in range(10)]
    line = summarise(rows, asdict(LIMITS))["sharpness_ratio"]
    assert line["proposed"] == 0.85 and line["worse_stopped"] == 1
    assert summarise(rows, asdict(HarmLimits(min_sharpness_ratio=0.85)))["sharpness_ratio"]["better_pass"] >= 0.95


def test_each_limit_counts_only_where_it_is_measured_and_all_together() -> None:
    rows = [
        make_row(True),
        # the input is sharp, so this row does not count for the limit of the fineness
        make_row(True, fineness=0.6, fineness_of_result=0.9),
        make_row(True, identity_gain=None, identity_to_input=0.4),
        make_row(False, identity_gain=-0.1),
        make_row(False, identity_gain=None, identity_to_input=-0.4),
        make_row(False),
    ]
    table = summarise(rows, asdict(LIMITS))
    assert table["identity_gain"]["worse_stopped"] == 0.5 and table["identity_to_input"]["worse_stopped"] == 1
    assert table["all limits"] == {"better_pass": 1, "worse_stopped": 0.667}
    # The limit is the largest allowed loss of identity. All better results gain .05, so their loss is -.05.
    assert table["identity_gain"]["proposed"] == -0.05
    lenient = summarise(rows, asdict(HarmLimits(max_identity_loss=0.2)))
    assert lenient["identity_gain"]["worse_stopped"] == 0
    assert table["fineness"] == {"limit": LIMITS.max_fineness, "proposed": 0.2}


def test_every_limit_of_the_table_has_a_line() -> None:
    table = summarise([make_row(True)], asdict(LIMITS))
    assert {*MEASURES.values(), "max_fineness"} == set(asdict(LIMITS))
    text = format_table(table)
    assert len(text.splitlines()) == len(table) + 1 and "worse_stopped" in text
