"""The small UNet of recipe `tiny`, from diffusers' blocks."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from train.models.references import GROUPS, Pooled, resnet, zeroed

HEADS = 4  # attention heads (ours)


class ExtendedAttention(nn.Module):
    """Attention of a map to itself and to every reference's tokens at once, as InstantRestore extends it."""

    def __init__(self, channels: int, reference_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.enter = nn.Linear(reference_channels, channels)
        self.attention = Attention(channels, heads=HEADS, dim_head=channels // HEADS, bias=True)
        self.attention.to_out[0] = zeroed(nn.Linear(channels, channels))

    def forward(self, h: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """h (B,C,h,w), tokens (B,N,R), mask (B,N) bool -> (B,C,h,w)."""
        own = self.norm(h).flatten(2).transpose(1, 2)
        keys = torch.cat([own, self.enter(tokens)], 1)
        seen = torch.cat([mask.new_ones(own.shape[:2]), mask], 1)
        bias = torch.zeros(seen.shape, dtype=h.dtype, device=h.device).masked_fill(~seen, torch.finfo(h.dtype).min)
        bias = bias.view(len(h), 1, 1, -1).expand(-1, HEADS, own.shape[1], -1)
        out = self.attention(own, encoder_hidden_states=keys, attention_mask=bias.flatten(0, 1))
        return h + out.transpose(1, 2).reshape(h.shape)


class TinyUNet(nn.Module):
    """Latent -> correction of the latent, conditioned on pooled references; starts as zero.

    References join at the last `len(reference_channels)` levels, attention acts at the level before the last, and the
    mean reference embedding modulates the deepest level and the way up.
    """

    def __init__(
        self, latent_channels: int, channels: tuple[int, ...], reference_channels: tuple[int, ...], embedding_dim: int
    ) -> None:
        super().__init__()
        levels = len(channels)
        self.shift = levels - len(reference_channels)
        modulation = channels[-1]
        self.modulate = nn.Sequential(
            nn.Linear(embedding_dim, modulation), nn.SiLU(), nn.Linear(modulation, modulation)
        )
        self.first = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList(resnet(c, c) for c in channels)
        self.smaller = nn.ModuleList(
            nn.Sequential(Downsample2D(c, use_conv=True, name="op"), nn.Conv2d(c, wider, 1))
            for c, wider in pairwise(channels)
        )
        self.join = nn.ModuleList(
            nn.Conv2d(c + 2 * r, c, 1) for c, r in zip(channels[self.shift :], reference_channels, strict=True)
        )
        self.attend = ExtendedAttention(channels[-2], reference_channels[len(reference_channels) // 2])
        self.middle = nn.ModuleList(resnet(channels[-1], channels[-1], modulation) for _ in range(2))
        self.larger = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wider, c, 1), Upsample2D(c, use_conv=True)) for c, wider in pairwise(channels)
        )
        self.up = nn.ModuleList(resnet(2 * c, c, modulation) for c in channels[:-1])
        self.last = nn.Sequential(
            nn.GroupNorm(GROUPS, channels[0]), nn.SiLU(), zeroed(nn.Conv2d(channels[0], latent_channels, 3, padding=1))
        )

    def forward(self, z: torch.Tensor, seen: Pooled) -> torch.Tensor:
        """z (B,C,h,w) in -1..1 -> correction (B,C,h,w)."""
        identity = self.modulate(seen.identity)
        h = self.first(z)
        skips = []
        for level, block in enumerate(self.down):
            if level:
                h = self.smaller[level - 1](h)
            if level >= self.shift:
                h = self.join[level - self.shift](torch.cat([h, seen.maps[level - self.shift]], 1))
            h = block(h, None)
            if level == len(self.down) - 2:
                h = self.attend(h, seen.tokens, seen.token_mask)
            skips.append(h)
        for block in self.middle:
            h = block(h, identity)
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([self.larger[level](h), skips[level]], 1), identity)
        return self.last(h)
