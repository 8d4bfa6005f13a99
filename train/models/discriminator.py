"""Defines the discriminators. In training, a discriminator learns to separate restored faces from true faces.

The latent and the patch discriminator return a logit for every patch (ours). Every layer has spectral normalisation
(Miyato et al. 2018), so the training is stable without a gradient penalty. These two discriminators have no other
normalisation, so the logits of an image do not depend on the other images of its batch.

The face discriminator is StyleGAN2's and returns one logit for an image. This logit also depends on the other images of
the batch. The penalty R1 keeps the training stable.

All discriminators have the same arguments. `halves` is True if the first half of the batch is true faces and the second
half is restored faces.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from train.models.bases.stylegan.discriminator import StyleganDiscriminator
from train.models.config import StyleganConfig

# The numbers of channels of the latent discriminator's levels (ours). Each level after the first halves the resolution.
LATENT_WIDTHS = (128, 256, 512)
# The numbers of channels of the patch discriminator's levels, from pix2pix. A patch has 70 x 70 px.
IMAGE_WIDTHS = (64, 128, 256, 512)
HEADS = 8  # The number of attention heads (ours).
SLOPE = 0.2  # The slope of the leaky ReLU below zero.


class LatentDiscriminator(nn.Module):
    """Judges whether a clean latent belongs to a true face, and whether the face fits the prompt.

    The discriminators in the figures of HonestFace's and OSDFace's authors have the latent and the prompt as inputs.
    The layers of this network are ours. The latent can have any number of channels, and any size of 4 x 4 or more.
    `prompt_dim` is None if the recipe has no prompt. If `diffused` is True, noise was added to the latents, and the
    network also reads the timestep of the noise. Two re-implementations of OSDFace do the same.
    """

    def __init__(self, channels: int, prompt_dim: int | None, diffused: bool = False) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(channels, LATENT_WIDTHS[0], 3, padding=1))
        self.levels = nn.ModuleList(
            spectral_norm(nn.Conv2d(narrow, wide, 4, stride=2, padding=1)) for narrow, wide in pairwise(LATENT_WIDTHS)
        )
        self.prompt = None if prompt_dim is None else _Reading(LATENT_WIDTHS[-1], prompt_dim)
        self.last = spectral_norm(nn.Conv2d(LATENT_WIDTHS[-1], 1, 3, padding=1))
        self.time = spectral_norm(nn.Linear(LATENT_WIDTHS[0], LATENT_WIDTHS[0])) if diffused else None

    def forward(
        self,
        image: torch.Tensor,
        latent: torch.Tensor,
        prompt: torch.Tensor | None,
        halves: bool = False,
        timestep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns logits (B,1,h/4,w/4) for latent (B,C,h,w), prompt (B,N,prompt_dim) and timestep (B,).

        `image` and `halves` are not used. `timestep` is None if the latents have no noise.
        """
        x = self.first(latent)
        if self.time is not None:
            assert timestep is not None
            x = x + self.time(get_timestep_embedding(timestep, LATENT_WIDTHS[0]).to(x.dtype))[:, :, None, None]
        x = F.leaky_relu(x, SLOPE)
        for level in self.levels:
            x = F.leaky_relu(level(x), SLOPE)
        if self.prompt is not None:
            x = x + self.prompt(x, prompt)
        return self.last(x)


class _Reading(nn.Module):
    """Lets every location of the latent attend to the tokens of a prompt. The order of the tokens does not matter."""

    def __init__(self, width: int, prompt_dim: int) -> None:
        super().__init__()
        self.ask = spectral_norm(nn.Linear(width, width))
        self.keys = spectral_norm(nn.Linear(prompt_dim, width))
        self.values = spectral_norm(nn.Linear(prompt_dim, width))
        self.join = spectral_norm(nn.Conv2d(2 * width, width, 1))

    def forward(self, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Returns (B,C,h,w) for a map x (B,C,h,w) and a prompt (B,N,prompt_dim)."""
        b, c, h, w = x.shape
        asked, keys, values = (
            part.view(b, -1, HEADS, c // HEADS).transpose(1, 2)
            for part in (self.ask(x.flatten(2).transpose(1, 2)), self.keys(prompt), self.values(prompt))
        )
        attended = F.scaled_dot_product_attention(asked, keys, values).transpose(1, 2).reshape(b, h * w, c)
        # From a sum, the next layer could not see whether latent and prompt agree. They are therefore concatenated and
        # pass through a nonlinear layer.
        both = torch.cat([x, attended.transpose(1, 2).view(b, c, h, w)], 1)
        return F.leaky_relu(self.join(both), SLOPE)


class PatchDiscriminator(nn.Module):
    """Judges every patch of 70 x 70 px of an image.

    ReFine gives this reason for its discriminator: it finds seams around detail that the restorer copied from a
    reference. The layers have the sizes of pix2pix (Isola et al. 2017). Each side of the image must have at least 16
    px.
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

    def forward(
        self,
        image: torch.Tensor,
        latent: torch.Tensor,
        prompt: torch.Tensor | None,
        halves: bool = False,
        timestep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns logits (B,1,h,h), where h is about S/8, for images (B,3,S,S) in 0..1. The other arguments are not
        used.
        """
        x = 2 * image - 1
        for level in self.levels:
            x = F.leaky_relu(level(x), SLOPE)
        return self.last(x)


class DictionaryDiscriminator(nn.Module):
    """Judges the reconstructions of recipe vre with one patch discriminator for HQ faces and another for LQ faces."""

    def __init__(self) -> None:
        super().__init__()
        self.hq, self.lq = PatchDiscriminator(), PatchDiscriminator()

    def forward(
        self,
        image: torch.Tensor,
        latent: torch.Tensor,
        prompt: torch.Tensor | None,
        halves: bool = False,
        timestep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns logits (2B,1,h,h) for images (2B,3,S,S) in 0..1: B HQ faces, then B LQ faces.

        With `halves`, `image` has true faces (B HQ faces, then B LQ faces), and then their reconstructions in the same
        order. The other arguments are not used.
        """
        calls = 2 if halves else 1
        groups = image.chunk(2 * calls)
        hq, lq = self.hq(torch.cat(groups[::2]), latent, prompt), self.lq(torch.cat(groups[1::2]), latent, prompt)
        return torch.cat([part for pair in zip(hq.chunk(calls), lq.chunk(calls), strict=True) for part in pair])


class FaceDiscriminator(nn.Module):
    """Judges a whole image with StyleGAN2's discriminator, as in ReFine."""

    def __init__(self, shape: StyleganConfig) -> None:
        super().__init__()
        self.network = StyleganDiscriminator(shape)

    def forward(
        self,
        image: torch.Tensor,
        latent: torch.Tensor,
        prompt: torch.Tensor | None,
        halves: bool = False,
        timestep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns logits (B,1) for images (B,3,S,S) in 0..1. `latent`, `prompt` and `timestep` are not used.

        The network compares the images of one call with each other. With `halves`, each half gets a separate call.
        """
        parts = (2 * image - 1).chunk(2 if halves else 1)
        return torch.cat([self.network(part) for part in parts])
