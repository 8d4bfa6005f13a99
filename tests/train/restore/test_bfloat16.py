"""Tests when `restore` chooses bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.doubles.models.restorers import Marking
from tests.doubles.models.saved import save_restorer
from tests.doubles.models.stable_diffusion import SHALLOW, write_mini_sd
from train.models.restorer import Restorer
from train.restore.outputs.log import LOG
from train.restore.restore_photos import restore
from train.restore.restorers import bfloat16, run_restorer
from train.restore.restorers.bfloat16 import MOST_LEVELS, measure_levels, prefers_bfloat16
from train.restore.restorers.load_restorer import prepare_restorer
from train.restore.restorers.run_restorer import choose_precision


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusion")
    return save_restorer(folder / "run", "osdface", str(write_mini_sd(folder / "sd", SHALLOW)))


@pytest.fixture
def model(checkpoint: Path) -> Restorer:
    return Restorer.from_pretrained(checkpoint)


def test_a_restorer_on_a_diffusion_base_is_measured(model: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = measure_levels(model)
    assert 0 < levels < 5 and measure_levels(model) == levels
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: True)
    monkeypatch.setattr(bfloat16, "MOST_LEVELS", 1.01 * levels)
    said = list[str]()
    restorer = prepare_restorer(model, None, said.append)
    assert restorer.precision == "bf16" and {weight.dtype for weight in model.base.vae.parameters()} == {torch.bfloat16}
    assert len(said) == 1 and f"{levels:.2f} of 255 levels" in said[0] and "--precision fp32" in said[0]


def test_bfloat16_is_refused_if_it_is_wrong_slow_or_not_wanted(
    model: Restorer, marking: Marking, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said = list[Restorer](), list[str]()
    levels = [0.5]

    def measure(model: Restorer) -> float:
        asked.append(model)
        return levels[0]

    monkeypatch.setattr(bfloat16, "measure_levels", measure)
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: False)
    assert prefers_bfloat16(model) == (False, None)
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: True)
    assert prefers_bfloat16(model) == (True, 0.5)
    assert choose_precision(model, "fp32", said.append) == "fp32"
    assert prefers_bfloat16(marking) == (False, None)  # base tiny gains little
    assert asked == [model] and not said
    for levels[0] in (MOST_LEVELS, float("inf")):
        assert choose_precision(model, None, said.append) == "fp32" and not said
    model.facts["needs_reference"] = True
    assert prefers_bfloat16(model) == (False, None)


def test_a_result_with_nan_is_far_from_float32(model: Restorer) -> None:
    model.base.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    assert measure_levels(model) == float("inf")


def test_restore_says_once_that_it_chose_bfloat16_and_logs_it(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_restorer, "prefers_bfloat16", lambda model: (True, 0.25))
    photos, said = [save(f"{number}.png", [5], number) for number in range(2)], list[str]()
    restore(photos, [], tmp_path, tmp_path / "out", say=said.append)
    assert [sentence for sentence in said if "bf16" in sentence] == said[:1]
    assert (tmp_path / "out" / LOG).read_text().count('"precision": "bf16"') == 2
    restore(photos, [], tmp_path, tmp_path / "fp32", precision="fp32", say=said.append)
    assert (tmp_path / "fp32" / LOG).read_text().count('"precision": "fp32"') == 2
    assert sum("bf16" in sentence for sentence in said) == 1
