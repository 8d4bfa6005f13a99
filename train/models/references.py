"""Encodes any number of references and pools their features. The order of the references does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from train.models import latent

GROUPS = 8  # the number of groups in every group norm (ours)

Layer = TypeVar("Layer", bound=nn.Module)


def resnet(inputs: int, outputs: int, modulation: int | None = None) -> ResnetBlock2D:
    """Returns a residual block. If `modulation` is a number, a vector of that length scales and shifts the features."""
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
    """Sets the weights and the bias of a layer to zero, so that its output is zero before training. Returns the
    layer."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


def pool(features: torch.Tensor, present: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    """Returns the mean and the maximum of the features over the references of each image, (B,2C,h,w).

    `features` is (B,K,C,h,w). `present` is (B,K) bool, and False for empty slots. An image without references gets the
    vector `nothing` (2C,) at every position.
    """
    b, _, c, h, w = features.shape
    empty = nothing.view(1, 2 * c, 1, 1).expand(b, -1, h, w)
    if features.shape[1] == 0:
        return empty + features.sum()  # the sum is 0, and it keeps the encoder in the graph
    mask = present.view(*present.shape, 1, 1, 1)
    count = present.sum(1).clamp(min=1).view(-1, 1, 1, 1)
    mean = (features * mask).sum(1) / count
    highest = features.masked_fill(~mask, torch.finfo(features.dtype).min).amax(1)
    return torch.where(present.any(1).view(-1, 1, 1, 1), torch.cat([mean, highest], 1), empty)


class ImageEncoder(nn.Module):
    """Encodes pictures into feature maps. The finest map has the side S / `factor`. Each further map has half the
    side."""

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
        """Returns one feature map for each scale, finest first, for images (N,3,S,S) in 0..1."""
        # Under autocast, converting before the permutation is six times as fast as converting after it (measured).
        h = self.first(latent.space_to_depth(latent.to_autocast(images * 2 - 1), self.factor, self.factor))
        maps = []
        for i, block in enumerate(self.blocks):
            h = block(self.downs[i - 1](h) if i else h, None)
            maps.append(h)
        return maps

    def encode_set(self, references: torch.Tensor, present: torch.Tensor, filled: torch.Tensor) -> list[torch.Tensor]:
        """Returns one map (B,K,C,h,w) for each scale. The maps of empty slots are zero.

        `references` is (B,K,3,S,S) in 0..1, and `present` is (B,K) bool. `filled` is `Places.filled`.
        """
        # Encode only the filled slots, because images have different numbers of references.
        pictures = references.flatten(0, 1)[filled]
        # A batch without references also needs the shapes of the maps, and its graph must contain the encoder.
        # Therefore a black picture is encoded, and its maps are not used.
        maps = self(pictures if len(pictures) else references.new_zeros(1, *references.shape[2:]))
        return [place_in_slots(flat[: len(pictures)], present, filled) for flat in maps]


def place_in_slots(rows: torch.Tensor, present: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
    """Returns (B,K, ...) with each of the rows (n, ...) in the slot of its reference, and with zeros in empty slots."""
    slots = rows.new_zeros((present.numel(), *rows.shape[1:]))
    return slots.index_copy(0, filled, rows).view(*present.shape, *rows.shape[1:])


def token_scale(channels: tuple[int, ...]) -> int:
    """Returns the index of the middle scale (ours). On base `tiny`, part `extended` attends to this scale."""
    return len(channels) // 2


class ReferenceEncoder(nn.Module):
    """Encodes references for the parts `maps` and `extended`. References and LQ face are aligned to the same
    template."""

    def __init__(self, channels: tuple[int, ...], factor: int, maps: bool, tokens: bool) -> None:
        super().__init__()
        middle = token_scale(channels)
        self.tokens_at = middle if tokens else None
        self.encoder = ImageEncoder(channels if maps else channels[: middle + 1], factor)
        self.nothing = nn.ParameterList(nn.Parameter(torch.zeros(2 * c)) for c in channels) if maps else None

    def forward(
        self,
        references: torch.Tensor,
        present: torch.Tensor,
        filled: torch.Tensor,
        encoded: Sequence[torch.Tensor] | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Returns the values of the fields `maps` and `tokens` of `Conditions`.

        `references` is (B,K,3,S,S) in 0..1, and `present` is (B,K) bool. `filled` is `Places.filled`. `encoded` has the
        maps of the filled slots, (n,C,h,w) for each scale. If `encoded` is None, the maps are computed.
        """
        if encoded is None:
            sets = self.encoder.encode_set(references, present, filled)
        else:
            sets = [place_in_slots(flat, present, filled) for flat in encoded]
        maps = []
        if self.nothing is not None:
            maps = [pool(s, present, n) for s, n in zip(sets, self.nothing, strict=True)]
        if self.tokens_at is None:
            return maps, None
        return maps, sets[self.tokens_at].flatten(3).transpose(2, 3)


def set_tokens(features: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens (B,K h w,C) of features (B,K,C,h,w), and a mask (B,K h w) bool.

    A token is one position of one reference. The mask is False for the tokens of empty slots. `present` is (B,K) bool.
    """
    place = features.shape[-1] * features.shape[-2]
    return features.permute(0, 1, 3, 4, 2).flatten(1, 3), present.repeat_interleave(place, dim=1)


class MeanEmbedding(nn.Module):
    """Computes the mean of the embeddings of the references, for part `embedding`.

    An image without references gets the learned vector `nobody` (ours).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.nobody = nn.Parameter(torch.zeros(dim))

    def forward(self, embeddings: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Returns (B,d) for embeddings (B,K,d) and present (B,K) bool."""
        weights = present.to(embeddings.dtype).unsqueeze(-1)
        mean = (embeddings * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.where(present.any(1, keepdim=True), mean, self.nobody.to(mean.dtype))
