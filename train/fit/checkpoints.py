"""Saves, loads and removes checkpoints. A checkpoint folder appears only when it is complete.

The folder RUN/checkpoint-<images> has these files:

    `config.json` and `model.safetensors` are explained in train/models/checkpoint_files.py.
    `recipe.toml` has the recipe without the losses that were turned off (train/recipes/recipe_files.py).
    `training/weights.safetensors` has the trained weights themselves (not their moving average), and all buffers.
    `training/optimizer.safetensors` has the moments of the model's AdamW, by parameter name.
    `training/discriminator.safetensors` has the weights and buffers of the discriminator, if the recipe has one.
    `training/discriminator-optimizer.safetensors` has the moments of the discriminator's AdamW.
    `training/state.json` has the number of images seen, and the name of the recipe.

No state of a random generator is saved: every draw follows from the seed and the number of images seen.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from manifests.errors import BadInput, LikenessError
from manifests.runtime.files import remove_temporary_files
from train.fit.ema import find_trained
from train.fit.engine import Engine
from train.models.checkpoint_files import WEIGHTS, list_checkpoints, name_checkpoint
from train.recipes.recipe_files import RECIPE_FILE, format_recipe
from train.run_folders import SAMPLES

TRAINING = "training"
STATE = "state.json"
KEEP = 3  # number of checkpoints that stay on disk; the oldest is removed after a new one is complete


def sweep_run(run: Path) -> None:
    """Removes files that a killed process left unfinished. Do not call this function while another process trains in
    the folder `run`."""
    for unfinished in run.glob(".checkpoint-*.tmp"):
        shutil.rmtree(unfinished, ignore_errors=True)
    remove_temporary_files(run / SAMPLES)
    remove_temporary_files(run, recursive=False, shared=True)  # `likeness evaluate` may be writing here


def save_checkpoint(run: Path, images: int, engine: Engine) -> Path:
    """Writes the folder checkpoint-<images> and returns its path.

    The oldest checkpoints are removed after the new checkpoint is complete.

    Raises LikenessError if the checkpoint cannot be written, for example on a full disk.
    """
    final = run / name_checkpoint(images)
    temporary = run / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / TRAINING).mkdir(parents=True)
        with engine.average.swap_in():
            engine.model.save_pretrained(temporary)
        (temporary / RECIPE_FILE).write_text(format_recipe(engine.recipe), encoding="utf-8")
        for name, tensors in collect_state(engine).items():
            save_file(tensors, temporary / TRAINING / f"{name}.safetensors")
        state = {"images": images, "recipe": engine.recipe.name}
        (temporary / TRAINING / STATE).write_text(json.dumps(state), encoding="utf-8")
        # All files of the checkpoint must be on the disk before the rename gives the folder its final name.
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error on a full disk
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LikenessError(
            f"The checkpoint {final} cannot be written ({why}): the last complete checkpoint stays. Solve the problem, "
            "for example free disk space, and run the same command again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(run)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, engine: Engine) -> int:
    """Loads a checkpoint into the engine. Returns the number of images that the model has seen.

    Raises BadInput if a file is broken, or if the checkpoint belongs to another recipe or to another base.
    """
    try:
        state = json.loads((folder / TRAINING / STATE).read_text(encoding="utf-8"))
        if state["recipe"] != engine.recipe.name:
            raise BadInput(f"{folder} is a checkpoint of recipe {state['recipe']}, not of {engine.recipe.name}.")
        load_state(engine, load_file(folder / WEIGHTS), folder / TRAINING)
        return int(state["images"])
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(
            f"Training cannot be resumed from {folder}, because this checkpoint is broken or belongs to another model "
            f"({' '.join(str(error).split())}): remove this folder to resume from the previous checkpoint."
        ) from error


def collect_state(engine: Engine) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the tensors that a resumed run needs, detached and on the CPU.

    The result has the form {file name without suffix: {name of the tensor: tensor}}.
    """
    files = {
        "weights": _get_trained_state(engine.model),
        "optimizer": _get_moments(engine.optimizer, engine.model),
    }
    if engine.discriminator is not None and engine.discriminator_optimizer is not None:
        files["discriminator"] = _get_trained_state(engine.discriminator)
        files["discriminator-optimizer"] = _get_moments(engine.discriminator_optimizer, engine.discriminator)
    return {
        file: {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        for file, tensors in files.items()
    }


def load_state(engine: Engine, averaged: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Loads the averaged weights and the files in `folder` into the engine. `collect_state` defines these files.

    Raises OSError or SafetensorError for an unreadable file. Raises ValueError, KeyError or RuntimeError for tensors of
    another model.
    """
    _load_frozen(engine.model, averaged)
    _load_trained(engine.model, load_file(folder / "weights.safetensors"))
    engine.average.load(averaged)
    _load_moments(engine.optimizer, engine.model, load_file(folder / "optimizer.safetensors"))
    if engine.discriminator is not None and engine.discriminator_optimizer is not None:
        _load_trained(engine.discriminator, load_file(folder / "discriminator.safetensors"))
        moments = load_file(folder / "discriminator-optimizer.safetensors")
        _load_moments(engine.discriminator_optimizer, engine.discriminator, moments)


def _get_trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the trained parameters and all buffers, by name."""
    state = module.state_dict(keep_vars=True)
    return {n: tensor for n, tensor in state.items() if tensor.requires_grad or not isinstance(tensor, nn.Parameter)}


@torch.no_grad()
def _load_frozen(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copies the frozen LQ dictionary of part `vre` from `tensors`, which are the averaged weights of a checkpoint."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad and name in tensors:
            parameter.copy_(tensors[name])


@torch.no_grad()
def _load_trained(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    own = _get_trained_state(module)
    if wrong := sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"{len(wrong)} tensors are missing or unknown, for example {wrong[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} instead of {tuple(own[name].shape)}")
        own[name].copy_(tensor)


# torch's AdamW numbers its moments by the position of their parameter. In the files, the name of a moment is
# "<parameter>|<kind of moment>".


def _get_moments(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, torch.Tensor]:
    names = _name_parameters(optimizer, module)
    states = optimizer.state_dict()["state"]
    return {f"{names[i]}|{kind}": value for i, state in states.items() for kind, value in state.items()}


def _name_parameters(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    """Returns the names of the parameters in the order of the optimizer, which lists them group by group."""
    names = {id(parameter): name for name, parameter in find_trained(module).items()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _load_moments(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    numbers = {name: i for i, name in enumerate(_name_parameters(optimizer, module))}
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, kind = key.rsplit("|", 1)
        state.setdefault(numbers[name], {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
