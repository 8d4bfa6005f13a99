"""Tests the result of the benchmark that compares a denoiser with a regression."""

import sys
from typing import Any

import pytest
import torch

from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from denoiser_steps import RUNS, SHARED, SHOWN, STEPS, format_table, repeat, summarise

from train.models.io import Restoration
from train.recipes.recipe_files import change_recipe, split_change
from train.recipes.recipes import TINY, find_recipe

KEYS = [f"{run}-{steps}" for run in RUNS for steps in STEPS]


def rows() -> list[dict[str, Any]]:
    """Returns rows of six people with three photos each. The figures rise by .01 from system to system."""
    return [
        {"face_id": str(face), "identity_id": str(face // 3), "key": key, "system": key, "reason": None}
        | dict.fromkeys(SHOWN, 0.3 + 0.01 * place)
        for place, key in enumerate(["lq", *KEYS])
        for face in range(18)
    ]


def test_the_summary_compares_the_runs_and_the_steps() -> None:
    found = summarise(rows())  # type: ignore[arg-type]
    assert list(found["rows"]) == ["lq", *KEYS] and set(found["rows"]["lq"]) == set(SHOWN)
    apart = found["differences"]
    assert apart["denoiser - regression, 20 steps"]["psnr"]["mean"] == pytest.approx(0.03)
    assert apart["denoiser: 20 steps - 1 step"]["sharpness"]["mean"] == pytest.approx(0.02)
    assert len(apart) == len(STEPS) + 2 * (len(STEPS) - 1)
    table = format_table(found).split("\n")
    assert len(table) == 2 + 1 + len(KEYS) and len({line.count("|") for line in table}) == 1
    assert table[2] == "| lq | 0.30 | 0.300 | 0.300 | 0.300 |"


def test_the_runs_differ_only_in_the_noise() -> None:
    denoiser = find_recipe("idm", TINY)
    assert "idm" in SHARED and RUNS["denoiser"] == ()
    regression = change_recipe(denoiser, "--change", *split_change("--change", RUNS["regression"][1]))
    assert denoiser.denoise and not regression.denoise
    assert change_recipe(regression, "--change", "denoise", True) == denoiser


def test_a_regression_restores_its_own_result_again() -> None:
    class Halving(torch.nn.Module):
        def forward(self, lq: torch.Tensor) -> Restoration:
            return Restoration(lq / 2, lq, None)

    model: Any = Halving()
    with repeat(model, 3):
        assert float(model(torch.tensor(8.0)).image) == 1
    assert float(model(torch.tensor(8.0)).image) == 4
