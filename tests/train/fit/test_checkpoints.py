"""Tests that a checkpoint is complete or missing, and that a checkpoint of another model is refused."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from manifests.errors import BadInput, LikenessError
from tests.doubles.training import ADVERSARIAL, DIM, SMALL, small
from train.fit.checkpoints import load_checkpoint, save_checkpoint
from train.fit.engine import Engine, build
from train.fit.settings import Settings
from train.losses.names import THROUGH_RECOGNIZER
from train.models.checkpoint_files import find_newest_checkpoint, list_checkpoints
from train.models.restorer import Restorer
from train.recipes.recipes import Recipe


def blind(recipe: Recipe) -> Recipe:
    """Returns the recipe without the losses that need a recognizer."""
    losses = {name: weight for name, weight in recipe.losses.items() if name not in THROUGH_RECOGNIZER}
    return replace(recipe, losses=losses)


def engine(recipe: Recipe = ADVERSARIAL, seed: int = 0) -> Engine:
    """Returns a model in training after one step on noise, without a recognizer."""
    made = build(blind(recipe), DIM, seed, Settings(), "fp32", None)
    for module, optimizer in ((made.model, made.optimizer), (made.discriminator, made.discriminator_optimizer)):
        if module is not None and optimizer is not None:
            for parameter in module.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    made.average.follow(0.5)
    return made


def everything(of: Engine) -> list[torch.Tensor]:
    assert of.discriminator is not None and of.discriminator_optimizer is not None
    moments = [
        state[kind]
        for optimizer in (of.optimizer, of.discriminator_optimizer)
        for _, state in sorted(optimizer.state_dict()["state"].items())
        for kind in ("step", "exp_avg", "exp_avg_sq")
    ]
    return [*of.model.parameters(), *of.average.values.values(), *of.discriminator.parameters(), *moments]


def test_model_average_discriminator_and_moments_come_back_bit_for_bit(tmp_path: Path) -> None:
    first, second = engine(), engine(seed=1)
    before = [tensor.detach().clone() for tensor in everything(first)]
    save_checkpoint(tmp_path, 8, first)
    # The checkpoint has the averaged weights in model.safetensors. The model in training keeps its own weights.
    assert all(torch.equal(a, b) for a, b in zip(before, everything(first), strict=True))
    assert load_checkpoint(find_newest_checkpoint(tmp_path), second) == 8
    assert all(torch.equal(a, b) for a, b in zip(before, everything(second), strict=True))
    sampled = dict(Restorer.from_pretrained(tmp_path).named_parameters())
    assert all(torch.equal(sampled[name], value) for name, value in first.average.values.items())


def test_the_dictionary_of_a_prompt_comes_back_from_the_checkpoint_itself(tmp_path: Path) -> None:
    prompted = replace(small("osdface"), losses={"mse": 1.0}, discriminator="")
    first, second = (build(prompted, DIM, seed, Settings(), "fp32", None) for seed in (0, 1))
    frozen = [name for name, parameter in first.model.named_parameters() if not parameter.requires_grad]
    assert frozen and any(
        not torch.equal(first.model.get_parameter(name), second.model.get_parameter(name)) for name in frozen
    )
    load_checkpoint(save_checkpoint(tmp_path, 8, first), second)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_what_is_frozen_is_neither_averaged_nor_saved_for_training(tmp_path: Path) -> None:
    made = build(blind(SMALL), DIM, 0, Settings(), "fp32", None)
    frozen = next(iter(made.average.values))
    made.model.get_parameter(frozen).requires_grad_(False)
    made = Engine(**{**vars(made), "average": type(made.average)(made.model)})
    made.optimizer.param_groups[0]["params"] = [p for p in made.model.parameters() if p.requires_grad]
    save_checkpoint(tmp_path, 8, made)
    assert frozen not in made.average.values
    assert frozen not in load_file(find_newest_checkpoint(tmp_path) / "training" / "weights.safetensors")


@pytest.mark.parametrize("full", ["save_file", "write", "mkdir"])
def test_a_disk_that_fills_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    made = engine()
    save_checkpoint(tmp_path, 8, made)

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        if full == "mkdir":
            disk.setattr(Path, "mkdir", fails)
        else:
            disk.setattr(
                "train.fit.checkpoints.save_file" if full == "save_file" else "safetensors.torch.save",
                fails,
            )
        with pytest.raises(LikenessError, match=r"cannot be written \(No space left on device\): the last complete"):
            save_checkpoint(tmp_path, 16, made)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000008"]
    assert load_checkpoint(find_newest_checkpoint(tmp_path), made) == 8


def test_three_checkpoints_stay(tmp_path: Path) -> None:
    made = engine(SMALL)
    for images in (8, 16, 24, 32):
        save_checkpoint(tmp_path, images, made)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n:08d}" for n in (16, 24, 32)]


def test_a_checkpoint_of_another_recipe_a_broken_one_and_a_pickle_are_refused(tmp_path: Path) -> None:
    made = engine()
    folder = save_checkpoint(tmp_path, 8, made)
    with pytest.raises(BadInput, match="is a checkpoint of recipe adversarial, not of small"):
        load_checkpoint(folder, engine(SMALL))

    weights, state = folder / "training" / "weights.safetensors", folder / "training" / "state.json"
    tensors, whole = load_file(weights), weights.read_bytes()
    name = next(iter(tensors))
    for other in ({**tensors, name: tensors[name][None]}, {k: v for k, v in tensors.items() if k != name}):
        save_file(other, weights)
        with pytest.raises(BadInput, match=f"this checkpoint is broken or belongs to another model .*{name}"):
            load_checkpoint(folder, made)
    for broken in (whole[: len(whole) // 2], pickle.dumps({"weights": 1}), b""):
        weights.write_bytes(broken)
        with pytest.raises(BadInput, match="cannot be resumed"):
            load_checkpoint(folder, made)
    weights.write_bytes(whole)
    state.write_text(json.dumps({"recipe": "adversarial"}))
    with pytest.raises(BadInput, match="cannot be resumed"):
        load_checkpoint(folder, made)
