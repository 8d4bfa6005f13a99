"""Tests that the validation measures only the pixels that come from the photo."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from train.fit.log.validation import validate
from train.models.io import Restoration


class Paints(nn.Module):
    """Acts as a restorer that adds a small error to the input. The pixels where `valid` is False become `colour`."""

    def __init__(self, valid: torch.Tensor, colour: float) -> None:
        super().__init__()
        self.valid, self.colour = valid, colour

    def forward(self, lq: torch.Tensor, *conditions: torch.Tensor) -> Restoration:
        return Restoration(torch.where(self.valid, lq + 0.1, self.colour), lq, None)


def measure(colour: float) -> dict[str, float]:
    size, people, values = 16, 3, dict[str, float]()
    valid = torch.zeros(people, 1, size, size, dtype=torch.bool)
    valid[:, :, 4:] = True
    faces: Any = {
        "lq": torch.full((people, 3, size, size), 0.5),
        "target": torch.full((people, 3, size, size), 0.5),
        "references": torch.zeros(people, 1, 3, size, size),
        "present": torch.ones(people, 1, dtype=torch.bool),
        "embeddings": torch.zeros(people, 1, 8),
        "valid": valid,
    }
    engine: Any = SimpleNamespace(
        average=SimpleNamespace(swap_in=nullcontext),
        model=Paints(valid, colour),
        recipe=SimpleNamespace(batch=people),
        device=torch.device("cpu"),
        recognizer=lambda images: images.mean((2, 3)),
        encoder=None,
    )
    log: Any = SimpleNamespace(write=lambda kind, seen, seconds, line: values.update(line), grid=lambda *images: None)
    validate(log, 0, engine=engine, faces=faces, began=0.0)
    return values


def test_what_a_model_draws_outside_the_photo_changes_no_value() -> None:
    one, other = measure(0.0), measure(1.0)
    assert one == other
    assert one["psnr_restored"] == pytest.approx(20, abs=1e-3)  # 20 dB, because the error of each valid pixel is .1
