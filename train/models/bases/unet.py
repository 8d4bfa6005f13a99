"""Defines the small UNet of base `tiny`, made of blocks from diffusers. The UNet has weights only for the parts that
the recipe names."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.upsampling import Upsample2D
from torch import nn

from train.models.config import PROMPT_PARTS, ModelConfig
from train.models.io import Conditions
from train.models.references import GROUPS, resnet, token_scale, zeroed

HEADS = 4  # The number of attention heads (ours).
PROMPT_DIM = 128  # The length of a prompt token on `tiny` (ours); in Stable Diffusion 2.1, it is 1024.
WAVES = 64  # The number (ours) of sines and cosines that encode a timestep.


class ExtendedAttention(nn.Module):
    """Lets a feature map attend to itself and to the tokens of all references at once, like InstantRestore."""

    def __init__(self, channels: int, reference_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.enter = nn.Linear(reference_channels, channels)
        # On a CPU in bf16, torch's scaled-dot-product attention takes twice as long as AttnProcessor (measured).
        self.attention = Attention(
            channels, heads=HEADS, dim_head=channels // HEADS, bias=True, processor=AttnProcessor()
        )
        self.attention.to_out[0] = zeroed(nn.Linear(channels, channels))

    def forward(self, h: torch.Tensor, seen: Conditions) -> torch.Tensor:
        """Returns (B,C,h,w) for a map h (B,C,h,w) and the tokens of the references, `seen.tokens` (B,K,N,R)."""
        tokens = seen.tokens
        assert tokens is not None
        own = self.norm(h).flatten(2).transpose(1, 2)
        out = torch.zeros_like(own)
        # Images with the same number of references are computed together, because they have the same number of keys.
        # With a mask instead, an empty slot would take as much time as a reference.
        for rows, slots in seen.groups:
            queries = own.index_select(0, rows)
            references = (rows[:, None] * tokens.shape[1] + slots).flatten()
            chosen = tokens.flatten(0, 1).index_select(0, references).view(len(rows), -1, tokens.shape[-1])
            keys = self.enter(chosen).to(queries.dtype)
            attended = self.attention(queries, encoder_hidden_states=torch.cat([queries, keys], 1))
            out = out.index_copy(0, rows, attended.to(out.dtype))
        return h + out.transpose(1, 2).reshape(h.shape)


class PromptAttention(nn.Module):
    """Lets a feature map attend to the prompt, as in Stable Diffusion. A new layer adds nothing."""

    def __init__(self, channels: int, prompt_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.attention = Attention(
            channels, cross_attention_dim=prompt_dim, heads=HEADS, dim_head=channels // HEADS, bias=True
        )
        self.attention.to_out[0] = zeroed(nn.Linear(channels, channels))

    def forward(self, h: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Returns (B,C,h,w) for a map h (B,C,h,w) and a prompt (B,N,D)."""
        own = self.norm(h).flatten(2).transpose(1, 2)
        out = self.attention(own, encoder_hidden_states=prompt)
        return h + out.transpose(1, 2).reshape(h.shape)


class Time(nn.Module):
    """Turns a timestep into the vector that modulates the blocks, as diffusers does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.waves = Timesteps(WAVES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.layers = TimestepEmbedding(WAVES, width)

    def forward(self, timestep: int | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Returns (B,width), where B is the length of `like`. `timestep` is a number, or a tensor (B,)."""
        if not isinstance(timestep, torch.Tensor):
            timestep = torch.full((), timestep, device=like.device)
        vector: torch.Tensor = self.layers(self.waves(timestep.expand(len(like))).to(like.dtype))
        return vector


class TinyUNet(nn.Module):
    """Computes a correction of the latent. The correction of a new UNet is zero.

    Part `maps` adds feature maps at every level. Part `extended` attends to the references at the second deepest level.
    Part `embedding` modulates the deepest level and the decoder. With part `vre`, `identity` or `features`, the deepest
    two levels attend to the prompt. In a denoiser, the UNet reads the noisy latent and the LQ latent, and the timestep
    modulates every block. In other restorers, the UNet ignores the timestep. All these places are our choice.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, parts = config.channels, config.parts
        latent_channels = 3 * config.latent_factor**2
        denoise, width = config.denoise, channels[-1]
        modulation = width if "embedding" in parts or denoise else None
        self.modulate, self.time = None, Time(width) if denoise else None
        if "embedding" in parts:
            self.modulate = nn.Sequential(nn.Linear(config.embedding_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Conv2d(latent_channels * (2 if denoise else 1), channels[0], 3, padding=1)
        self.down = nn.ModuleList(resnet(c, c, width if denoise else None) for c in channels)
        self.smaller = nn.ModuleList(
            nn.Sequential(Downsample2D(c, use_conv=True, name="op"), nn.Conv2d(c, wider, 1))
            for c, wider in pairwise(channels)
        )
        self.join = None
        if "maps" in parts:
            self.join = nn.ModuleList(
                nn.Conv2d(c + 2 * r, c, 1) for c, r in zip(channels, config.reference_channels, strict=True)
            )
        self.attend = None
        if "extended" in parts:
            tokens = config.reference_channels[token_scale(config.reference_channels)]
            self.attend = ExtendedAttention(channels[-2], tokens)
        self.middle = nn.ModuleList(resnet(channels[-1], channels[-1], modulation) for _ in range(2))
        self.larger = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wider, c, 1), Upsample2D(c, use_conv=True)) for c, wider in pairwise(channels)
        )
        self.up = nn.ModuleList(resnet(2 * c, c, modulation) for c in channels[:-1])
        self.last = nn.Sequential(
            nn.GroupNorm(GROUPS, channels[0]), nn.SiLU(), zeroed(nn.Conv2d(channels[0], latent_channels, 3, padding=1))
        )
        self.prompted = None
        if PROMPT_PARTS & set(parts):
            self.prompted = nn.ModuleList(PromptAttention(c, PROMPT_DIM) for c in channels[-2:])

    def forward(
        self, z: torch.Tensor, seen: Conditions, timestep: int | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the correction (B,C,h,w) of the LQ latent, and the features (B,D,h,w) before the last layers.

        `z` is the LQ latent (B,C,h,w). In a denoiser, `z` is (B,2C,h,w): the noisy latent and the LQ latent. `timestep`
        is one number, or a tensor (B,) with a number per image.
        """
        # `identity` (B,width) becomes the sum of the identity vector and the time vector. A missing vector is left out.
        identity = None if self.modulate is None else self.modulate(seen.identity)
        time = None if self.time is None else self.time(timestep, z)
        if time is not None:
            identity = time if identity is None else identity + time
        # Go down from the finest level to the coarsest. Each level stores its map for the way up.
        h = self.first(z)
        skips = []
        for level, block in enumerate(self.down):
            if level:
                h = self.smaller[level - 1](h)
            if self.join is not None:
                h = self.join[level](torch.cat([h, seen.maps[level]], 1))
            h = block(h, time)
            if level == len(self.down) - 2:
                if self.attend is not None:
                    h = self.attend(h, seen)
                if self.prompted is not None:
                    h = self.prompted[0](h, seen.prompt)
            skips.append(h)
        h = self.middle[0](h, identity)
        if self.prompted is not None:
            h = self.prompted[1](h, seen.prompt)
        h = self.middle[1](h, identity)
        # Go up again. Each level also reads the map that was stored on the way down.
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([self.larger[level](h), skips[level]], 1), identity)
        return self.last(h), h
