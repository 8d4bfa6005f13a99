"""Tests how the benchmarks of speed read the log of a training, and how they time a model."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.doubles.training import SMALL
from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from restore_latency import time_calls
from train_step_speed import read_speed

from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config


def stats(path: Path, speeds: list[float]) -> Path:
    lines = [{"kind": "val", "psnr": 1.0}]
    lines += [{"kind": "train", "images_per_second": speed, "data_wait": speed / 100} for speed in speeds]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_pace_is_the_median_without_the_start(tmp_path: Path) -> None:
    found = read_speed(stats(tmp_path / "stats.jsonl", [1.0, 8.0, 6.0, 7.0]))
    assert (found["images_per_second"], found["data_wait"], found["data_wait_at_most"]) == (7.0, 0.07, 0.08)
    assert found["intervals"] == 3 and not found["first_interval_counted"]
    alone = read_speed(stats(tmp_path / "stats.jsonl", [1.0]))
    assert alone["images_per_second"] == 1.0 and alone["first_interval_counted"]
    with pytest.raises(SystemExit, match="--images 320"):
        read_speed(stats(tmp_path / "stats.jsonl", []))


def test_a_restorer_is_timed_with_and_without_references() -> None:
    model = Restorer(build_model_config(replace(SMALL), 16)).eval()
    for references in (0, 2):
        times = time_calls(model, 1, references, 3, "fp32")
        assert len(times) == 3 and min(times) > 0
