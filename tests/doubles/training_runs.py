"""Starts training runs of the small recipe, compares the weights of two runs, and reads the log of a run."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.doubles.training import SMALL
from train.data.snapshot import Snapshot
from train.fit.loop import Ending
from train.fit.loop import train as run_training
from train.fit.settings import Settings
from train.models.checkpoint_files import find_newest_checkpoint
from train.recipes.recipes import Recipe


def run(where: Path, taken: Snapshot, images: int = 24, recipe: Recipe = SMALL, **options) -> Ending:  # type: ignore[no-untyped-def]
    usual = {"workers": 0, "checkpoint_every": 8, "settings": Settings(precision="fp32")}
    return run_training(where, taken.folder, recipe, images, **{**usual, **options})


def same_weights(a: Path, b: Path) -> bool:
    a, b = find_newest_checkpoint(a), find_newest_checkpoint(b)
    names = [sorted(path.relative_to(c) for path in c.rglob("*.safetensors")) for c in (a, b)]
    if names[0] != names[1]:
        return False
    for name in names[0]:
        one, other = load_file(a / name), load_file(b / name)
        if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
            return False
    return a.name == b.name


def lines(where: Path, kind: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (where / "stats.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]
