"""What the one step is told beside the LQ latent; a part that a recipe leaves out is None or empty here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch


class Places(NamedTuple):
    """Where a batch has references and later steps. Counted on the CPU, so that no training step waits for the device.

    The model selects rows by these indices. A boolean mask on a GPU would make the CPU wait until it is counted.
    """

    filled: torch.Tensor  # (n,) int64: the slots with a reference, numbered 0 to B K - 1, row by row
    later: torch.Tensor  # (m,) int64: the images that train a step after the first
    later_filled: torch.Tensor  # (l,) int64: the slots with a reference among those images, numbered 0 to m K - 1


def find_places(present: torch.Tensor, step: torch.Tensor | None = None) -> Places:
    """Counts the places of `present` (B,K) bool and `step` (B,) int64. Waits for the device of its arguments."""
    first_only = torch.zeros(len(present), dtype=torch.bool, device=present.device)
    later = (first_only if step is None else step > 0).nonzero()[:, 0]
    filled, later_filled = (mask.flatten().nonzero()[:, 0] for mask in (present, present[later]))
    return Places(filled, later, later_filled)


@dataclass(frozen=True)
class Conditions:
    """Made by train/models/restorer.py from a batch, read by the two bases. No order of references matters in it."""

    present: torch.Tensor  # (B,K) bool, False where a slot is empty; K may be 0
    filled: torch.Tensor  # (n,) int64: the slots with a reference, see Places
    prompt: torch.Tensor | None = None  # (B,N,D): tokens of the VRE and of the identity embedder, D the base's own
    maps: list[torch.Tensor] = field(default_factory=list)  # part `maps`: per scale (B,2C,h,w), finest first
    identity: torch.Tensor | None = None  # part `embedding`: (B,d) mean embedding, or the learned nobody
    references: torch.Tensor | None = None  # part `extended` on diffusion: (B,K,3,S,S) in 0..1
    tokens: torch.Tensor | None = None  # part `extended` on tiny: (B,N,C) of every reference's middle map
    token_mask: torch.Tensor | None = None  # (B,N) bool, False where there is no reference

    def select_later(self, places: Places) -> Conditions:
        """Returns the conditions of the images in `places.later`, without gradients."""
        rows = places.later

        def chosen(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.detach()[rows]

        return Conditions(
            present=self.present[rows],
            filled=places.later_filled,
            prompt=chosen(self.prompt),
            maps=[level.detach()[rows] for level in self.maps],
            identity=chosen(self.identity),
            references=chosen(self.references),
            tokens=chosen(self.tokens),
            token_mask=chosen(self.token_mask),
        )


class Restoration(NamedTuple):
    """What one step gives."""

    image: torch.Tensor  # (B,3,S,S); clamped to 0..1 in eval mode
    latent: torch.Tensor  # the clean latent that was decoded
    prompt: torch.Tensor | None  # (B,N,D) what the UNet attended to; None where the recipe has no prompt
    terms: Mapping[str, torch.Tensor] = MappingProxyType({})  # losses that the model itself computes (recipe vre)
