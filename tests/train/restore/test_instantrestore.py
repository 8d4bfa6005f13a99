"""Tests the seed of `likeness restore` with InstantRestore's released layout.

Of all released restorers, only InstantRestore draws noise.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

import train.models.released.instantrestore
from tests.doubles.models.restorers import Marking
from tests.places import Run


def test_the_option_seed_chooses_the_noise_and_another_seed_does_not_mix_with_earlier_results(
    marking: Marking, save: Callable[..., Path], command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seeds = list[int]()

    def load(folder: Path, base_model: str, seed: int) -> Marking:
        seeds.append(seed)
        marking.facts["seed"] = seed
        return marking

    monkeypatch.setattr(train.models.released.instantrestore, "load_instantrestore", load)
    words = ["restore", save("one.png", [5]), "--reference", save("r.png", [5], 1)]
    released = [*words, "--run", f"instantrestore:{tmp_path}", "--base-model", "turbo", "--out"]
    for out, more, code in (("o", (), 0), ("p", ("--seed", "7"), 0), ("p", ("--seed", "7"), 0), ("p", (), 2)):
        done = command(*released, tmp_path / out, *more)
        assert done.returncode == code, done.stderr
    assert seeds == [0, 7, 7, 0] and len(marking.seen) == 3
    assert "was restored with a different checkpoint" in done.stderr.replace("\n", " ")
    wrong = command(
        *words, "--run", f"osdface:{tmp_path}", "--base-model", "sd21", "--seed", "7", "--out", tmp_path / "q"
    )
    assert wrong.returncode == 2 and "--seed 7 has no effect" in wrong.stderr
