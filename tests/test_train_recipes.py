"""Every recipe trains ten steps, resumes exactly, and restores; what is frozen stays as it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sd_doubles import write_mini_sd
from train_doubles import finder, small, snapshot
from weight_doubles import random_vgg16

from train.checkpoint import newest_checkpoint
from train.loop import train
from train.models.dictionary import Dictionary
from train.models.restorer import Restorer
from train.recipes import DIFFUSION, RECIPES, TINY, Recipe
from train.run import Settings
from train.snapshot import Snapshot


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Snapshot]:
    """Snapshots by base."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("recipes")
    return {base: snapshot(folder / base, size=small("tiny", base).size) for base in (TINY, DIFFUSION)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, taken: dict[str, Snapshot]) -> Callable[[Recipe], Settings]:
    """Settings by recipe: random backbones, a small diffusion model, a run of recipe vre where there is a prompt."""
    folder = tmp_path_factory.mktemp("settings")
    weights = random_vgg16(folder / "weights")
    bases = {TINY: TINY, DIFFUSION: str(write_mini_sd(folder / "sd"))}

    def of(recipe: Recipe) -> Settings:
        told = Settings(base_model=bases[recipe.base], weights=weights)
        if "vre" not in recipe.parts:
            return told
        run = folder / f"vre-{recipe.base}"
        train(run, taken[recipe.base].folder, replace(small("vre", recipe.base), images=8), workers=0, settings=told)
        return replace(told, vre=run)

    return of


@pytest.mark.slow
@pytest.mark.parametrize("base", [TINY, DIFFUSION])
@pytest.mark.parametrize("name", RECIPES)
def test_ten_steps_in_one_go_are_ten_steps_with_a_rest_and_restore(
    tmp_path: Path,
    taken: dict[str, Snapshot],
    settings: Callable[[Recipe], Settings],
    name: str,
    base: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Snapshot, "finder", lambda _: finder())
    recipe = small(name, base)
    told, faces = settings(recipe), taken[base].folder
    whole = train(tmp_path / "whole", faces, recipe, 40, workers=0, settings=told)
    train(tmp_path / "parts", faces, recipe, 20, workers=0, settings=told)
    parts = train(tmp_path / "parts", faces, recipe, 40, workers=0, settings=told)
    files = sorted(path.relative_to(whole.checkpoint) for path in whole.checkpoint.rglob("*.safetensors"))
    assert len(files) == (5 if recipe.discriminator else 3)
    for file in files:
        one, other = load_file(whole.checkpoint / file), load_file(parts.checkpoint / file)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), file
    lines = [json.loads(line) for line in (tmp_path / "whole" / "stats.jsonl").read_text().splitlines()]
    assert lines  # the samples of the start and of the end were looked at
    if name == "vre":
        assert Dictionary.from_pretrained(tmp_path / "whole").config.vre == recipe.vre
        return
    model, size = Restorer.from_pretrained(tmp_path / "whole"), recipe.size
    embeddings = torch.nn.functional.normalize(torch.rand(1, 2, model.config.embedding_dim), dim=-1)
    for present in (torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)):
        image = model(torch.rand(1, 3, size, size), torch.rand(1, 2, 3, size, size), present, embeddings).image
        assert image.shape == (1, 3, size, size) and bool(((image >= 0) & (image <= 1)).all())


def test_a_frozen_parameter_is_the_same_after_training(
    tmp_path: Path, taken: dict[str, Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[str, torch.Tensor, torch.nn.Parameter]] = []
    build = Restorer.__init__

    def frozen(self: Restorer, *told: object) -> None:
        build(self, *told)  # type: ignore[arg-type]
        for name, parameter in self.base.named_parameters():
            if "down" in name:
                kept.append((name, parameter.requires_grad_(False).detach().clone(), parameter))

    with monkeypatch.context() as patch:
        patch.setattr(Restorer, "__init__", frozen)
        train(tmp_path, taken[TINY].folder, small("tiny"), 8, workers=0)
    assert kept
    saved = load_file(newest_checkpoint(tmp_path) / "training" / "weights.safetensors")
    for name, before, parameter in kept:
        assert torch.equal(parameter, before) and f"base.{name}" not in saved
