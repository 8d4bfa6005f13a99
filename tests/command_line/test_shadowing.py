"""Tests that a file in the current folder is never imported in place of our module with the same name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

BIN = Path(sys.executable).parent
STARTS = {
    "script": [BIN / "likeness"],
    "module": [sys.executable, "-m", "likeness"],
    "accelerate": [BIN / "accelerate", "launch", "--cpu", "--num_processes", "1", "-m", "likeness"],
    "torchrun": [BIN / "torchrun", "--nproc-per-node", "1", "-m", "likeness"],
}
SLOW = {"accelerate", "torchrun"}  # these programs import torch before they start a process


@pytest.mark.parametrize(
    "start", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in STARTS]
)
def test_a_stranger_of_the_same_name_is_not_imported_by_any_start_or_worker(tmp_path: Path, start: str) -> None:
    (tmp_path / "degrade").mkdir()
    (tmp_path / "likeness").mkdir()  # a clone of this repository has this name
    (tmp_path / "likeness/likeness.py").write_text("raise SystemExit('a stranger was imported')\n")
    for name in ("train.py", "doctor.py", "curate.py", "manifests.py", "degrade/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('a stranger was imported')\n")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), pixels)
    command = [*STARTS[start], "degrade", "photos", "--out", "lq", "--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONSAFEPATH", None)
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "2 images in lq" in ended.stdout, ended.stderr
