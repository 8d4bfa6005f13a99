"""The dry run of recipes that need more of a batch than pictures."""

from pathlib import Path

import pytest
import torch
from train_doubles import dataset, finder, recognizer_onnx, small, snapshot
from weight_doubles import random_vgg16

from train.plan import measured
from train.run import Settings
from train.snapshot import Snapshot


@pytest.mark.parametrize("of_a_snapshot", [True, False])
def test_a_recipe_that_warps_and_closes_the_cycle_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_a_snapshot: bool
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(Snapshot, "finder", lambda _: finder())
    if of_a_snapshot:
        source = snapshot(tmp_path).folder
    else:
        source = dataset(tmp_path / "dataset", recognizer_onnx(tmp_path / "recognizer.onnx"))
    settings = Settings(weights=random_vgg16(tmp_path / "weights"))
    told = measured(source, small("refine"), 0, settings)
    assert any(sentence.startswith("Speed: ") for sentence in told)
    assert of_a_snapshot == any("landmarks are found by double" in sentence for sentence in told)
