"""Tests the dry run of recipes whose batches need more data than pictures."""

import re
from pathlib import Path

import pytest
import torch

from tests.doubles.models.stable_diffusion import write_mini_sd
from tests.doubles.models.weights import random_vgg16
from tests.doubles.training import dataset, finder, recognizer_onnx, small, snapshot
from train.data.snapshot import Snapshot
from train.fit.dry_run import measure_training
from train.fit.settings import Settings
from train.recipes.recipes import DIFFUSION


@pytest.mark.parametrize("of_a_snapshot", [True, False])
def test_a_recipe_that_warps_and_closes_the_cycle_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_a_snapshot: bool
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(Snapshot, "load_detector", lambda _: finder())
    if of_a_snapshot:
        source = snapshot(tmp_path).folder
    else:
        source = dataset(tmp_path / "dataset", recognizer_onnx(tmp_path / "recognizer.onnx"))
    settings = Settings(weights=random_vgg16(tmp_path / "weights"))
    told = measure_training(source, small("refine-unet"), 0, settings)
    assert any(sentence.startswith("Speed: ") for sentence in told)
    assert of_a_snapshot == any(
        "the detector of double on this machine finds the landmarks" in sentence for sentence in told
    )


def test_a_recipe_on_a_diffusion_model_is_measured_by_one_image_on_a_cpu(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = small("instant", DIFFUSION)
    settings = Settings(base_model=str(write_mini_sd(tmp_path / "sd")), weights=random_vgg16(tmp_path / "weights"))
    told = measure_training(snapshot(tmp_path, size=recipe.size).folder, recipe, 0, settings)
    (parameters,) = (sentence for sentence in told if sentence.startswith("Parameters: "))
    trained, frozen = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= trained| frozen)", parameters))
    assert trained and frozen
    if not torch.cuda.is_available():
        assert any("scaled from batch 1" in sentence for sentence in told)
        assert any("one update of batch 1 after one update that was not timed" in sentence for sentence in told)
