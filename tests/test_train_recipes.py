"""Every recipe trains ten steps, resumes exactly, and restores; what is frozen stays as it was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_doubles import small, snapshot

from train.checkpoint import newest_checkpoint
from train.loop import train
from train.models.restorer import Restorer
from train.recipes import RECIPES, Recipe
from train.run import Settings
from train.snapshot import Snapshot


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    torch.set_num_threads(1)
    return snapshot(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, taken: Snapshot):  # type: ignore[no-untyped-def]
    """Settings by recipe: those with a prompt get a run of recipe vre."""

    def of(recipe: Recipe) -> Settings:
        if recipe.name != "vre" and "vre" not in recipe.parts:
            return Settings()
        pytest.importorskip("train.models.dictionary")
        if recipe.name == "vre":
            return Settings()
        run = tmp_path_factory.getbasetemp() / "vre"
        train(run, taken.folder, replace(small("vre"), images=8), workers=0)
        return Settings(vre=run)

    return of


@pytest.mark.parametrize("name", RECIPES)
def test_ten_steps_in_one_go_are_ten_steps_with_a_rest_and_restore(  # type: ignore[no-untyped-def]
    tmp_path: Path, taken: Snapshot, settings, name: str
) -> None:
    recipe = small(name)
    told = settings(recipe)
    whole = train(tmp_path / "whole", taken.folder, recipe, 40, workers=0, settings=told)
    train(tmp_path / "parts", taken.folder, recipe, 20, workers=0, settings=told)
    parts = train(tmp_path / "parts", taken.folder, recipe, 40, workers=0, settings=told)
    files = sorted(path.relative_to(whole.checkpoint) for path in whole.checkpoint.rglob("*.safetensors"))
    assert len(files) == (5 if recipe.discriminator else 3)
    for file in files:
        one, other = load_file(whole.checkpoint / file), load_file(parts.checkpoint / file)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), file
    if name == "vre":
        return
    model, size = Restorer.from_pretrained(tmp_path / "whole"), recipe.size
    embeddings = torch.nn.functional.normalize(torch.rand(1, 2, model.config.embedding_dim), dim=-1)
    for present in (torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)):
        image = model(torch.rand(1, 3, size, size), torch.rand(1, 2, 3, size, size), present, embeddings).image
        assert image.shape == (1, 3, size, size) and bool(((image >= 0) & (image <= 1)).all())


def test_a_frozen_parameter_is_the_same_after_training(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
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
        train(tmp_path, taken.folder, small("tiny"), 8, workers=0)
    assert kept
    saved = load_file(newest_checkpoint(tmp_path) / "training" / "weights.safetensors")
    for name, before, parameter in kept:
        assert torch.equal(parameter, before) and f"base.{name}" not in saved
