"""Keeps the averaged weights of a model: an exponential moving average of its trained parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


def find_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that training changes, by name. Training changes the parameters that require a
    gradient."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Average:
    """Holds an exponential moving average of the trained parameters of a model. Frozen parameters are not copied."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = find_trained(model)
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Sets average = decay * average + (1 - decay) * parameters."""
        torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies the averaged weights from `tensors`. Raises KeyError if `tensors` lacks one of the parameters.

        Tensors of frozen parameters are ignored.
        """
        for name, value in self.values.items():
            value.copy_(tensors[name])

    @contextmanager
    def swap_in(self) -> Iterator[None]:
        """Puts the averaged weights into the model inside the context. After the context, the model has its own weights
        again."""
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
