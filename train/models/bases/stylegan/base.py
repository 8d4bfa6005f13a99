"""Defines the base `stylegan` of a restorer: ReFine's generator in the place of a UNet."""

from __future__ import annotations

import torch
from torch import nn

from train.models.bases.stylegan.generator import Generator
from train.models.config import StyleganConfig
from train.models.io import Conditions


class StyleganBase(nn.Module):
    """Wraps the generator. The latent of this base is the image itself in -1..1."""

    prompt_dim = 0  # The generator reads no prompt.
    latent_channels = 3

    def __init__(self, shape: StyleganConfig) -> None:
        super().__init__()
        self.generator = Generator(shape)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the latent (B,3,S,S) in -1..1 of an image (B,3,S,S) in 0..1."""
        return 2 * image - 1

    def predict(self, z: torch.Tensor, conditions: Conditions, timestep: int | torch.Tensor) -> torch.Tensor:
        """Returns the output of the generator as the clean latent x0, in the shape of z. The timestep has no effect.

        The generator reads a fixed number of references: the first references of each image. If an image has fewer
        references, they are repeated. If an image has no references, the generator reads black pictures (ours).
        """
        references, present = conditions.references, conditions.present
        assert references is not None and conditions.identity is not None
        read = self.generator.shape.references
        pictures = z.new_full((len(z), read, *z.shape[1:]), -1)
        if present.shape[1]:
            # The references of an image are in its first slots. Slots after them are empty.
            counts = present.sum(1, keepdim=True).clamp(min=1)
            slots = torch.arange(read, device=z.device)[None] % counts
            filled = present.gather(1, slots)[..., None, None, None]
            chosen = references[torch.arange(len(z), device=z.device)[:, None], slots]
            pictures = torch.where(filled, self.encode(chosen), pictures)
        restored: torch.Tensor = self.generator(torch.cat([z, pictures.flatten(1, 2)], 1), conditions.identity)
        return restored

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Returns the image (B,3,S,S) of the clean latent x0. The values of the image are not clamped."""
        return (x0 + 1) / 2
