"""References: an encoder of their own, pooled so that neither their order nor their number matters."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from train.models import latent

GROUPS = 8  # of every group norm (ours)

Layer = TypeVar("Layer", bound=nn.Module)


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
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


def pool(features: torch.Tensor, present: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over the references that are present, in any order the same.

    features (B,K,C,h,w), present (B,K) bool, nothing (2C,): what an image without references gets. Returns (B,2C,h,w).
    """
    b, _, c, h, w = features.shape
    empty = nothing.view(1, 2 * c, 1, 1).expand(b, -1, h, w)
    if features.shape[1] == 0:
        return empty + features.sum()  # of nothing, so 0: it keeps the encoder in the graph
    mask = present.view(*present.shape, 1, 1, 1)
    count = present.sum(1).clamp(min=1).view(-1, 1, 1, 1)
    mean = (features * mask).sum(1) / count
    highest = features.masked_fill(~mask, torch.finfo(features.dtype).min).amax(1)
    return torch.where(present.any(1).view(-1, 1, 1, 1), torch.cat([mean, highest], 1), empty)


class ImageEncoder(nn.Module):
    """Pictures -> feature maps, the finest at S / `factor`, each of the next half as large."""

    def __init__(self, channels: tuple[int, ...], factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.first = nn.Conv2d(3 * factor**2, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(resnet(c, c) for c in channels)
        self.downs = nn.ModuleList(
            nn.Sequential(Downsample2D(c, use_conv=True, name="op"), nn.Conv2d(c, wider, 1))
            for c, wider in pairwise(channels)
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(N,3,S,S) in 0..1 -> a feature map a scale, finest first."""
        h = self.first(latent.encode(images, self.factor))
        maps = []
        for i, block in enumerate(self.blocks):
            h = block(self.downs[i - 1](h) if i else h, None)
            maps.append(h)
        return maps

    def encode_set(self, references: torch.Tensor, present: torch.Tensor, filled: torch.Tensor) -> list[torch.Tensor]:
        """references (B,K,3,S,S) in 0..1, present (B,K) bool, filled of `Places` -> a map (B,K,C,h,w) a scale, zero in
        empty slots."""
        # Only references that exist pass through the encoder: their number differs from image to image.
        pictures = references.flatten(0, 1)[filled]
        # a batch without any still needs the shapes, and every parameter in the graph: one black picture, used nowhere
        found = self(pictures if len(pictures) else references.new_zeros(1, *references.shape[2:]))
        return [place_in_slots(flat[: len(pictures)], present, filled) for flat in found]


def place_in_slots(rows: torch.Tensor, present: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
    """Puts rows (n, ...) of the references that exist into their slots: (B,K, ...), zero in empty slots."""
    slots = rows.new_zeros((present.numel(), *rows.shape[1:]))
    return slots.index_copy(0, filled, rows).view(*present.shape, *rows.shape[1:])


def token_scale(channels: tuple[int, ...]) -> int:
    """Which of an encoder's scales part `extended` attends to on `tiny`: the middle one (ours)."""
    return len(channels) // 2


class ReferenceEncoder(nn.Module):
    """Reference pictures in the same template as the input -> what the parts `maps` and `extended` show of them."""

    def __init__(self, channels: tuple[int, ...], factor: int, maps: bool, tokens: bool) -> None:
        super().__init__()
        middle = token_scale(channels)
        self.tokens_at = middle if tokens else None
        self.encoder = ImageEncoder(channels if maps else channels[: middle + 1], factor)
        self.nothing = nn.ParameterList(nn.Parameter(torch.zeros(2 * c)) for c in channels) if maps else None

    def forward(
        self, references: torch.Tensor, present: torch.Tensor, filled: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor | None, torch.Tensor | None]:
        """references (B,K,3,S,S) in 0..1, present (B,K) bool, filled of `Places` -> maps, tokens, token_mask of
        `Conditions`."""
        sets = self.encoder.encode_set(references, present, filled)
        maps = []
        if self.nothing is not None:
            maps = [pool(s, present, n) for s, n in zip(sets, self.nothing, strict=True)]
        if self.tokens_at is None:
            return maps, None, None
        tokens, mask = set_tokens(sets[self.tokens_at], present)
        return maps, tokens, mask


def set_tokens(features: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """features (B,K,C,h,w), present (B,K) -> every reference's own tokens (B,K h w,C), and which exist (B,K h w)."""
    place = features.shape[-1] * features.shape[-2]
    return features.permute(0, 1, 3, 4, 2).flatten(1, 3), present.repeat_interleave(place, dim=1)


class MeanEmbedding(nn.Module):
    """Part `embedding`: the mean of the references' embeddings; a learned nobody where there is no reference (ours)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.nobody = nn.Parameter(torch.zeros(dim))

    def forward(self, embeddings: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """embeddings (B,K,d), present (B,K) bool -> (B,d)."""
        weights = present.to(embeddings.dtype).unsqueeze(-1)
        mean = (embeddings * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.where(present.any(1, keepdim=True), mean, self.nobody.to(mean.dtype))
