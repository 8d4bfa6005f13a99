"""Tests that a training that is interrupted, stopped or killed ends with the weights of an undisturbed training."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.doubles.commands.forked_commands import start_python
from tests.doubles.training import ADVERSARIAL, SMALL
from tests.doubles.training_runs import lines, run, same_weights
from tests.places import REPOSITORY
from train.data.snapshot import Snapshot
from train.recipes.recipes import Recipe


@pytest.mark.parametrize(
    "recipe", [pytest.param(SMALL, marks=pytest.mark.exhaustive), ADVERSARIAL], ids=lambda recipe: recipe.name
)
def test_interrupted_and_uninterrupted_runs_end_in_the_same_weights(
    tmp_path: Path, taken: Snapshot, recipe: Recipe
) -> None:
    run(tmp_path / "whole", taken, recipe=recipe)
    run(tmp_path / "parts", taken, 12, recipe)  # 12 images: between two regular checkpoints
    run(tmp_path / "parts", taken, recipe=recipe, workers=1)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    again = run(tmp_path / "parts", taken, recipe=recipe)
    assert again.images_per_second == 0 and again.reason == "complete"


def test_a_signal_ends_it_with_a_checkpoint(tmp_path: Path, taken: Snapshot) -> None:
    told: list[str] = []

    def interrupt(_: str, done: int, __: int) -> None:
        if done == 12:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    ending = run(tmp_path / "run", taken, progress=interrupt, say=told.append)
    assert (ending.images, ending.reason) == (12, "SIGTERM") and "resume from checkpoint-00000012" in told[-1]
    assert signal.getsignal(signal.SIGTERM) == before
    run(tmp_path / "run", taken)
    run(tmp_path / "whole", taken)
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_minutes_end_it_with_a_checkpoint(tmp_path: Path, taken: Snapshot) -> None:
    ending = run(tmp_path, taken, minutes=0.0)
    assert (ending.images, ending.reason, ending.checkpoint.name) == (4, "minutes", "checkpoint-00000004")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_stopped_and_resumed_it_ends_in_the_weights_of_an_unbroken_run(tmp_path: Path, taken: Snapshot) -> None:
    broken = tmp_path / "broken"
    command = ["-m", "tests.doubles.training", str(taken.folder), str(broken), "160"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def signalled(kind: signal.Signals, after: str) -> int:
        process = start_python(command, environment)
        until = time.monotonic() + 300
        while not (broken / after).is_dir() and time.monotonic() < until:
            time.sleep(0.005)
        # The training and its worker processes get the signal at the same time, as from a terminal or a scheduler.
        os.killpg(process.pid, kind)
        return process.wait(300)

    assert signalled(signal.SIGKILL, "checkpoint-00000040") == -signal.SIGKILL
    # Make files as a kill in the middle of writing leaves them.
    (broken / ".checkpoint-00000160.1.tmp").mkdir()
    with (broken / "stats.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    assert signalled(signal.SIGTERM, "checkpoint-00000080") == 0
    assert not (broken / "checkpoint-00000160").exists()
    assert start_python(command, environment).wait(300) == 0
    run(tmp_path / "whole", taken, 160, ADVERSARIAL, checkpoint_every=40)
    assert same_weights(broken, tmp_path / "whole")
    regular = [line["images"] for line in lines(broken, "val") if line["images"] % 40 == 0]
    assert regular == list(range(0, 161, 40))
    assert not list(broken.glob(".checkpoint*"))
