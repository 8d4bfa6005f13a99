"""References: an encoder of their own, pooled so that neither their order nor their number matters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from train.models import latent

GROUPS = 8  # of every group norm (ours)

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Pooled:
    """What the UNet sees of a set of references."""

    maps: list[torch.Tensor]  # per scale (B, 2C, h, w): mean and maximum over the references
    tokens: torch.Tensor  # (B, K h w, C) of the middle scale, every reference's own
    token_mask: torch.Tensor  # (B, K h w) bool, False where there is no reference
    identity: torch.Tensor  # (B, d) mean embedding


def resnet(inputs: int, outputs: int, modulation: int | None = None) -> ResnetBlock2D:
    """A residual block; with `modulation`, a vector of so many numbers scales and shifts it."""
    return ResnetBlock2D(
        in_channels=inputs,
        out_channels=outputs,
        temb_channels=modulation,  # type: ignore[arg-type]
        groups=GROUPS,
        groups_out=GROUPS,
        eps=1e-5,
        time_embedding_norm="default" if modulation is None else "scale_shift",
    )


def zeroed(layer: Layer) -> Layer:
    """The layer with weight and bias at zero: what it adds starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def pool(features: torch.Tensor, present: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over the references that are present, in any order the same.

    features (B,K,C,h,w), present (B,K) bool, nothing (2C,): what an image without references gets. Returns (B,2C,h,w).
    """
    b, _, c, h, w = features.shape
    empty = nothing.view(1, 2 * c, 1, 1).expand(b, -1, h, w)
    if features.shape[1] == 0:
        return empty
    mask = present.view(*present.shape, 1, 1, 1)
    count = present.sum(1).clamp(min=1).view(-1, 1, 1, 1)
    mean = (features * mask).sum(1) / count
    highest = features.masked_fill(~mask, torch.finfo(features.dtype).min).amax(1)
    return torch.where(present.any(1).view(-1, 1, 1, 1), torch.cat([mean, highest], 1), empty)


class ReferenceEncoder(nn.Module):
    """Reference pictures in the same template as the input -> feature maps at three scales, pooled over the set."""

    def __init__(self, channels: tuple[int, ...], factor: int, embedding_dim: int) -> None:
        super().__init__()
        self.factor = factor
        self.first = nn.Conv2d(3 * factor**2, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(resnet(c, c) for c in channels)
        self.downs = nn.ModuleList(
            nn.Sequential(Downsample2D(c, use_conv=True, name="op"), nn.Conv2d(c, wider, 1))
            for c, wider in pairwise(channels)
        )
        self.nothing = nn.ParameterList(nn.Parameter(torch.zeros(2 * c)) for c in channels)
        self.nobody = nn.Parameter(torch.zeros(embedding_dim))

    def encode(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(N,3,S,S) in 0..1 -> a feature map a scale, finest first."""
        h = self.first(latent.encode(images, self.factor))
        maps = []
        for i, block in enumerate(self.blocks):
            h = block(self.downs[i - 1](h) if i else h, None)
            maps.append(h)
        return maps

    def forward(self, references: torch.Tensor, present: torch.Tensor, embeddings: torch.Tensor) -> Pooled:
        """references (B,K,3,S,S) in 0..1, present (B,K) bool, embeddings (B,K,d) -> what the UNet sees of them."""
        b, k = present.shape
        # only references that exist pass through the encoder: K differs from image to image
        pictures = references[present]
        # a batch without any still needs the shapes, and every parameter in the graph: one black picture, used nowhere
        found = self.encode(pictures if len(pictures) else references.new_zeros(1, *references.shape[2:]))
        sets = []
        for flat in found:
            spread = flat.new_zeros((b, k, *flat.shape[1:]))
            spread[present] = flat[: len(pictures)]
            sets.append(spread)
        middle = sets[len(sets) // 2]
        tokens = middle.permute(0, 1, 3, 4, 2).flatten(1, 3)
        weights = present.to(embeddings.dtype).unsqueeze(-1)
        mean = (embeddings * weights).sum(1) / weights.sum(1).clamp(min=1)
        return Pooled(
            maps=[pool(s, present, n) for s, n in zip(sets, self.nothing, strict=True)],
            tokens=tokens,
            token_mask=present.repeat_interleave(middle.shape[-1] * middle.shape[-2], dim=1),
            identity=torch.where(present.any(1, keepdim=True), mean, self.nobody.to(mean.dtype)),
        )
