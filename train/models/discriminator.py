"""What tells restored faces from true ones, during training alone. Both answer a logit for every patch (ours).

Every layer is spectrally normalised (Miyato et al. 2018), which holds the two sides together without a penalty to
compute; there is no other normalisation, so that no image depends on its batch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

LATENT_WIDTHS = (128, 256, 512)  # by level of the latent discriminator, each half the resolution of the last (ours)
IMAGE_WIDTHS = (64, 128, 256, 512)  # pix2pix's: patches of 70 px
HEADS = 8
SLOPE = 0.2  # of the leaky ReLU below zero


class LatentDiscriminator(nn.Module):
    """Clean latent and prompt -> logits: whether the latent is a true face's, and one that the prompt tells of.

    That it sees both is HonestFace's and OSDFace's figure; the rest is ours. Works on any number of latent channels and
    any latent of 4 x 4 or more. `prompt_dim` is None where the recipe has no prompt.
    """

    def __init__(self, channels: int, prompt_dim: int | None) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(channels, LATENT_WIDTHS[0], 3, padding=1))
        self.levels = nn.ModuleList(
            spectral_norm(nn.Conv2d(narrow, wide, 4, stride=2, padding=1)) for narrow, wide in pairwise(LATENT_WIDTHS)
        )
        self.prompt = None if prompt_dim is None else _Reading(LATENT_WIDTHS[-1], prompt_dim)
        self.last = spectral_norm(nn.Conv2d(LATENT_WIDTHS[-1], 1, 3, padding=1))

    def forward(self, image: torch.Tensor, latent: torch.Tensor, prompt: torch.Tensor | None) -> torch.Tensor:
        """latent (B,C,h,w), prompt (B,N,prompt_dim) -> (B,1,h/4,w/4); the image is not looked at."""
        x = F.leaky_relu(self.first(latent), SLOPE)
        for level in self.levels:
            x = F.leaky_relu(level(x), SLOPE)
        if self.prompt is not None:
            x = x + self.prompt(x, prompt)
        return self.last(x)


class _Reading(nn.Module):
    """What every location finds among the tokens of a prompt, whose order does not matter."""

    def __init__(self, width: int, prompt_dim: int) -> None:
        super().__init__()
        self.ask = spectral_norm(nn.Linear(width, width))
        self.keys = spectral_norm(nn.Linear(prompt_dim, width))
        self.values = spectral_norm(nn.Linear(prompt_dim, width))
        self.join = spectral_norm(nn.Conv2d(2 * width, width, 1))

    def forward(self, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        asked, keys, values = (
            part.view(b, -1, HEADS, c // HEADS).transpose(1, 2)
            for part in (self.ask(x.flatten(2).transpose(1, 2)), self.keys(prompt), self.values(prompt))
        )
        found = F.scaled_dot_product_attention(asked, keys, values).transpose(1, 2).reshape(b, h * w, c)
        # side by side and through a curve: a sum alone could not say whether latent and prompt agree
        both = torch.cat([x, found.transpose(1, 2).view(b, c, h, w)], 1)
        return F.leaky_relu(self.join(both), SLOPE)


class PatchDiscriminator(nn.Module):
    """Image -> logits by patch of 70 px, against the seams of what was copied from a reference (ReFine's reason).

    The layers are pix2pix's (Isola et al. 2017). Works from 16 px a side.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *IMAGE_WIDTHS)
        strides = (*(2 for _ in IMAGE_WIDTHS[:-1]), 1)
        self.levels = nn.ModuleList(
            spectral_norm(nn.Conv2d(narrow, wide, 4, stride=stride, padding=1))
            for narrow, wide, stride in zip(widths, IMAGE_WIDTHS, strides, strict=False)
        )
        self.last = spectral_norm(nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, image: torch.Tensor, latent: torch.Tensor, prompt: torch.Tensor | None) -> torch.Tensor:
        """image (B,3,S,S) in 0..1 -> (B,1,h,w), h about S/8; latent and prompt are not looked at."""
        x = 2 * image - 1
        for level in self.levels:
            x = F.leaky_relu(level(x), SLOPE)
        return self.last(x)
