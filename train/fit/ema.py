"""The averaged weights: a second copy of what trains, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


def find_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name: those that require a gradient."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Average:
    """An exponential moving average of the trained parameters of a model; what is frozen is not copied."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = find_trained(model)
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """One step: `decay` of the average stays."""
        torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the averages from `tensors`, which may hold more. Raises KeyError for one that is missing."""
        for name, value in self.values.items():
            value.copy_(tensors[name])

    @contextmanager
    def swap_in(self) -> Iterator[None]:
        """Inside it the model has the averaged weights, afterwards its own again."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])
