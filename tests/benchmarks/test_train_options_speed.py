"""Tests the benchmark of the options of training on a diffusion base."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch

from tests.doubles.models.stable_diffusion import SHALLOW, write_mini_sd
from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
import train_options_speed
from train_options_speed import BASELINE, Step, make_step, measure


def test_an_option_is_measured_beside_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    taken: list[str] = []

    def start(name: str, *training: object) -> AbstractContextManager[Callable[[], Step]]:
        step = make_step(name, *training)  # type: ignore[arg-type]
        return nullcontext(lambda: taken.append(name) or step())

    monkeypatch.setattr(train_options_speed, "start_training", start)
    base = str(write_mini_sd(tmp_path, SHALLOW))
    rows = measure(base, 64, 1, 1, ["kept activations", "kept latents"])
    assert taken == 2 * [BASELINE, "kept activations"] + 2 * [BASELINE, "kept latents"]
    assert list(rows) == [BASELINE, "kept activations", "kept latents"] and rows[BASELINE]["ratio"] == 1
    assert all(row["seconds"] > 0 and row["memory_mib"] > 0 for row in rows.values())
    # Without gradient checkpointing, a step keeps more activations.
    activations = {name: row["activations_mib"] for name, row in rows.items()}
    assert activations["kept activations"] > 2 * max(activations[BASELINE], activations["kept latents"])
