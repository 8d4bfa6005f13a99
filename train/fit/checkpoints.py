"""Checkpoints: RUN/checkpoint-<images>/, whole or not at all.

config.json, model.safetensors               the averaged weights and what they are; `from_pretrained` reads these
training/weights.safetensors                 the weights being trained, and buffers; nothing that is frozen
training/optimizer.safetensors               AdamW's moments, by parameter name
training/discriminator.safetensors           where the recipe has one, with its moments beside it in
training/discriminator-optimizer.safetensors
training/state.json                          images seen, and of which recipe

No draw has a state: every one follows from the seed and the images seen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from manifests.errors import BadInput, LikenessError
from manifests.runtime import files as storage
from train.fit.ema import trained
from train.run_folders import SAMPLES

if TYPE_CHECKING:
    from train.fit.engine import Engine

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TRAINING = "training"
STATE = "state.json"
KEEP = 3  # newest checkpoints that stay; older ones go once a newer one is whole

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [(int(m[1]), path) for path in run.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def sweep(run: Path) -> None:
    """Remove what a killed process left half written; only where no other process trains in `run`."""
    for half in run.glob(".checkpoint-*.tmp"):
        shutil.rmtree(half, ignore_errors=True)
    storage.remove_temporary_files(run / SAMPLES)
    storage.remove_temporary_files(run, recursive=False, shared=True)  # `evaluate` writes here too


def newest_checkpoint(folder: Path) -> Path:
    """`folder` itself where it is a checkpoint, else the newest one of a RUN. Raises BadInput where there is none."""
    if (folder / WEIGHTS).is_file():
        return folder
    found = checkpoints(folder)
    if not found:
        raise BadInput(f"{folder} holds no checkpoint: name a folder that `likeness train --out` made.")
    return found[-1]


def save_checkpoint(run: Path, images: int, engine: Engine) -> Path:
    """Write checkpoint-<images>; the last whole one stays until the new one is.

    Raises LikenessError where it cannot be written, as on a full disk.
    """
    final = run / f"checkpoint-{images:08d}"
    temporary = run / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / TRAINING).mkdir(parents=True)
        with engine.average.worn():
            engine.model.save_pretrained(temporary)
        for name, tensors in _tensors(engine).items():
            save_file(_plain(tensors), temporary / TRAINING / f"{name}.safetensors")
        state = {"images": images, "recipe": engine.recipe.name}
        (temporary / TRAINING / STATE).write_text(json.dumps(state), encoding="utf-8")
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own words
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LikenessError(f"{final} cannot be written ({why}): the last whole checkpoint stays.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(run)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, engine: Engine) -> int:
    """Bring everything in training to a checkpoint; returns the images it had seen.

    Raises BadInput where its files are broken, or of another recipe or base.
    """
    training = folder / TRAINING
    try:
        state = json.loads((training / STATE).read_text(encoding="utf-8"))
        if state["recipe"] != engine.recipe.name:
            raise BadInput(f"{folder} is a checkpoint of recipe {state['recipe']}, not of {engine.recipe.name}.")
        averaged = load_file(folder / WEIGHTS)
        _load_frozen(engine.model, averaged)
        _load_trained(engine.model, load_file(training / "weights.safetensors"))
        engine.average.load(averaged)
        _load_moments(engine.optimizer, engine.model, load_file(training / "optimizer.safetensors"))
        if engine.judge is not None and engine.judge_optimizer is not None:
            _load_trained(engine.judge, load_file(training / "discriminator.safetensors"))
            moments = load_file(training / "discriminator-optimizer.safetensors")
            _load_moments(engine.judge_optimizer, engine.judge, moments)
        return int(state["images"])
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(
            f"{folder} cannot be resumed from, it is broken or of another model ({' '.join(str(error).split())}): "
            "remove it to go on from the one before."
        ) from error


def _tensors(engine: Engine) -> dict[str, dict[str, torch.Tensor]]:
    """What resuming needs beside the averaged weights, by file."""
    files = {
        "weights": _trained_state(engine.model),
        "optimizer": _moments(engine.optimizer, engine.model),
    }
    if engine.judge is not None and engine.judge_optimizer is not None:
        files["discriminator"] = _trained_state(engine.judge)
        files["discriminator-optimizer"] = _moments(engine.judge_optimizer, engine.judge)
    return files


def _trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict(keep_vars=True)
    return {n: tensor for n, tensor in state.items() if tensor.requires_grad or not isinstance(tensor, nn.Parameter)}


@torch.no_grad()
def _load_frozen(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """What is frozen and lies in the checkpoint: the dictionary of a VRE, of which it is the run's own copy."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad and name in tensors:
            parameter.copy_(tensors[name])


@torch.no_grad()
def _load_trained(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    own = _trained_state(module)
    if wrong := sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"{len(wrong)} tensors differ, among them {wrong[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} and should be {tuple(own[name].shape)}")
        own[name].copy_(tensor)


def _moments(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, torch.Tensor]:
    names = list(trained(module))
    states = optimizer.state_dict()["state"]
    return {f"{names[i]}|{kind}": value for i, state in states.items() for kind, value in state.items()}


def _load_moments(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    numbers = {name: i for i, name in enumerate(trained(module))}
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, kind = key.rsplit("|", 1)
        state.setdefault(numbers[name], {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
