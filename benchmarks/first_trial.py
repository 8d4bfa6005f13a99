"""Trains with the code and the settings of the first trial, for benchmarks/train_step_speed.py.

The first trial of training at 256 px used the code of the commit TRIAL_COMMIT and the recipe `tiny`, with the latent
factor 8. first_trial.py reads this code from the history of the repository, so the repository must be cloned with its
history.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TRIAL_COMMIT = "7c08522"
_PACKAGES = ("train", "curate", "degrade", "manifests")
_REPOSITORY = Path(__file__).resolve().parents[1]
# The trial was started from Python, because its command line had no option for these settings.
_PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from train.data.take_snapshot import take_snapshot
from train.fit.loop import train
from train.fit.settings import Settings
from train.recipes import find_recipe

dataset, folder, images, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
take_snapshot(dataset, folder / "snapshot", 256)
recipe = replace(find_recipe("tiny"), size=256, latent_factor=8)
settings = Settings(precision="fp32")
train(folder / "run", folder / "snapshot", recipe, images=images, workers=workers, settings=settings)
"""


def train_trial(dataset: Path, folder: Path, images: int, workers: int) -> Path:
    """Trains in float32 with the settings of the trial, and writes the run into `folder`.

    Returns the file stats.jsonl of the run.
    """
    code = folder / "code"
    code.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", _REPOSITORY, "archive", TRIAL_COMMIT, *_PACKAGES], stdout=subprocess.PIPE, check=False
    )
    if archive.returncode:
        sys.exit(f"This clone does not contain the commit {TRIAL_COMMIT}: clone the repository with its whole history.")
    subprocess.run(["tar", "--extract", "--directory", code], input=archive.stdout, check=True)
    subprocess.run(
        [sys.executable, "-c", _PROGRAM, dataset.resolve(), folder.resolve(), str(images), str(workers)],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code.resolve())},
        stdout=sys.stderr,
        check=True,
    )
    return folder / "run" / "stats.jsonl"
