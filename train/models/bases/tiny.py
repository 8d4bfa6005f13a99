"""Defines the base `tiny`: a small UNet on a latent that loses no information. The base `tiny` needs no download."""

from __future__ import annotations

import torch
from torch import nn

from train.models import latent
from train.models.bases.refine import Refinement
from train.models.bases.unet import PROMPT_DIM, TinyUNet
from train.models.config import REFINEMENT_SHRINK, ModelConfig
from train.models.io import Conditions

# A denoiser divides its latents by this number (ours). The root mean square of the result is near 1, as the noise
# schedule of Stable Diffusion assumes. We measured latents in -1..1 of 1,426 training targets of people_crops at 128
# px. Their root mean square is .48, and .54 without the pixels outside the photo.
SPREAD = 0.5


class TinyBase(nn.Module):
    """Combines space-to-depth, TinyUNet and a refinement at half the resolution.

    Before training, the predicted clean latent is the LQ latent, also in a denoiser.
    """

    prompt_dim = PROMPT_DIM

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.factor = config.latent_factor
        # the side of the small squares of the latent in pixels (train/models/latent.py)
        self.inner = REFINEMENT_SHRINK if config.refine_channels else config.latent_factor
        self.latent_channels = 3 * config.latent_factor**2
        self.spread = SPREAD if config.denoise else 1.0
        self.unet = TinyUNet(config)
        self.refine = None
        if config.refine_channels:
            self.refine = Refinement(config.refine_channels, config.channels[0], 3 if config.denoise else 2)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the latent z (B, 3 f^2, S/f, S/f) of an image (B,3,S,S) in 0..1. f is the latent factor.

        The values are in -1..1. A denoiser then divides the values by SPREAD.
        """
        return latent.encode(image, self.factor, self.inner) / self.spread

    def predict(self, z: torch.Tensor, conditions: Conditions, timestep: int | torch.Tensor) -> torch.Tensor:
        """Returns the clean latent x0 in the shape of z: the LQ latent plus the corrections of the UNet and the
        refinement.

        `z` is the LQ latent, or the noisy latent of a denoiser. `timestep` is one number, or a tensor (B,) with a
        number per image.
        """
        lq, inputs = (z, (z,)) if conditions.lq is None else (conditions.lq, (z, conditions.lq))
        correction, features = self.unet(torch.cat(inputs, 1), conditions, timestep)
        clean: torch.Tensor = lq + correction.to(lq.dtype)
        if self.refine is not None:
            clean = clean + self.refine((clean, *inputs), features, self.factor)
        return clean

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Returns the image (B,3,S,S) of the clean latent x0. The values of the image are not clamped."""
        return latent.decode(x0 * self.spread, self.factor, self.inner)
