"""The state of training beside the averaged weights, as named tensors: trained weights, buffers, Adam's moments.

No state of a random generator is saved: every draw follows from the seed and the number of images seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from train.fit.ema import find_trained

if TYPE_CHECKING:
    from train.fit.engine import Engine


def collect_state(engine: Engine) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the tensors that resuming needs, detached, on the CPU: {file name without suffix: {name: tensor}}."""
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
    """Puts the averaged weights and the files of `folder`, which `collect_state` named, into the engine.

    Raises OSError or SafetensorError for an unreadable file, ValueError, KeyError or RuntimeError for tensors of
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
    """Returns the parameters that training changes, and all buffers, by name."""
    state = module.state_dict(keep_vars=True)
    return {n: tensor for n, tensor in state.items() if tensor.requires_grad or not isinstance(tensor, nn.Parameter)}


@torch.no_grad()
def _load_frozen(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Loads the frozen parameters that the checkpoint holds: the dictionary of a VRE, which the run copied."""
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


# AdamW numbers its states by the position of the parameter. The files name them: "<parameter>|<kind of moment>".


def _get_moments(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, torch.Tensor]:
    names = list(find_trained(module))
    states = optimizer.state_dict()["state"]
    return {f"{names[i]}|{kind}": value for i, state in states.items() for kind, value in state.items()}


def _load_moments(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    numbers = {name: i for i, name in enumerate(find_trained(module))}
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, kind = key.rsplit("|", 1)
        state.setdefault(numbers[name], {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
