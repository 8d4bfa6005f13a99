"""What the one step is told beside the LQ latent; a part that a recipe leaves out is None or empty here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Conditions:
    """Made by train/models/restorer.py from a batch, read by the two bases. No order of references matters in it."""

    present: torch.Tensor  # (B,K) bool, False where a slot is empty; K may be 0
    prompt: torch.Tensor | None = None  # (B,N,D): tokens of the VRE and of the identity embedder, D the base's own
    maps: list[torch.Tensor] = field(default_factory=list)  # part `maps`: per scale (B,2C,h,w), finest first
    identity: torch.Tensor | None = None  # part `embedding`: (B,d) mean embedding, or the learned nobody
    references: torch.Tensor | None = None  # part `extended` on diffusion: (B,K,3,S,S) in 0..1
    tokens: torch.Tensor | None = None  # part `extended` on tiny: (B,N,C) of every reference's middle map
    token_mask: torch.Tensor | None = None  # (B,N) bool, False where there is no reference

    def of(self, rows: torch.Tensor) -> Conditions:
        """Those of some images of the batch, without gradients; rows (B,) bool."""

        def chosen(found: torch.Tensor | None) -> torch.Tensor | None:
            return None if found is None else found.detach()[rows]

        return Conditions(
            present=self.present[rows],
            prompt=chosen(self.prompt),
            maps=[found.detach()[rows] for found in self.maps],
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
