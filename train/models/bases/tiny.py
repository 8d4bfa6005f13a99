"""Defines the base `tiny`: a small UNet with random weights, on a latent that loses no information.

The base `tiny` needs no download.
"""

from __future__ import annotations

import torch
from torch import nn

from train.models import latent
from train.models.bases.refine import Refinement
from train.models.bases.unet import PROMPT_DIM, TinyUNet
from train.models.config import REFINEMENT_SHRINK, ModelConfig
from train.models.io import Conditions
from train.models.timesteps import one_step


class TinyBase(nn.Module):
    """Combines space-to-depth, TinyUNet and a refinement at half the resolution. A new TinyBase returns its input."""

    prompt_dim = PROMPT_DIM

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.factor = config.latent_factor
        # the side of the small squares of the latent
        self.inner = REFINEMENT_SHRINK if config.refine_channels else config.latent_factor
        self.discriminator_channels = 3 * config.latent_factor**2
        self.unet = TinyUNet(config)
        self.refine = None
        if config.refine_channels:
            self.refine = Refinement(config.refine_channels, config.channels[0])

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the latent z (B, 3 f^2, S/f, S/f) in -1..1 of an image (B,3,S,S) in 0..1. f is the latent factor."""
        return latent.encode(image, self.factor, self.inner)

    def predict(self, z: torch.Tensor, conditions: Conditions, timestep: int | torch.Tensor) -> torch.Tensor:
        """Returns the noise eps in the shape of z. Without this noise, z becomes x0 = z + correction.

        The UNet and the refinement compute the correction. `timestep` is one number, or a tensor (B,) with a number per
        image.
        """
        correction, features = self.unet(z, conditions, timestep)
        if self.refine is not None:
            correction = correction.to(z.dtype)
            correction = correction + self.refine(z + correction, z, features, self.factor)
        return one_step.noise_of_correction(z, correction, timestep)

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Returns the image (B,3,S,S) of the clean latent x0, not clamped."""
        return latent.decode(x0, self.factor, self.inner)
