"""Builds adapted layers with peft's names for their tensors, and merges the adapters into the layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class AdaptedLayer(nn.Module):
    """Holds a layer and its adapter. The names of the tensors are the names that peft gives.

    The layer is a Linear or a Conv2d. `adapter` is peft's name of the adapter, which is a part of the tensor names.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, adapter: str) -> None:
        super().__init__()
        self.base_layer = layer
        if isinstance(layer, nn.Conv2d):
            size: tuple[int, ...] = layer.kernel_size
            down: nn.Module = nn.Conv2d(layer.in_channels, rank, (size[0], size[1]), bias=False)
            up: nn.Module = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            down = nn.Linear(layer.in_features, rank, bias=False)
            up = nn.Linear(rank, layer.out_features, bias=False)
        self.lora_A = nn.ModuleDict({adapter: down})
        self.lora_B = nn.ModuleDict({adapter: up})

    @torch.no_grad()
    def merge_into_layer(self, scale: float) -> nn.Module:
        """Adds scale * up @ down to the weight of the layer, and returns the layer."""
        down, up = (next(half.parameters()) for half in (self.lora_A, self.lora_B))
        added = up.flatten(1) @ down.flatten(1)
        weight: torch.Tensor = self.base_layer.weight
        weight.add_(scale * added.view_as(weight))
        return self.base_layer


def add_adapters(model: nn.Module, targets: Sequence[str], rank: int, adapter: str) -> None:
    """Replaces every layer of `model` that peft would adapt by an AdaptedLayer.

    peft adapts a layer if the name of the layer is one of `targets`, or ends with a dot and one of `targets`.
    """
    endings = tuple(f".{target}" for target in targets)
    for name, layer in list(model.named_modules()):
        if name in targets or name.endswith(endings):
            _replace(model, name, AdaptedLayer(layer, rank, adapter))


def merge_adapters(model: nn.Module, scale: float) -> None:
    """Merges every AdaptedLayer of `model`, and puts the merged layer in its place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, AdaptedLayer):
            _replace(model, name, layer.merge_into_layer(scale))


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
