"""Defines the one-step restoration of InstantRestore. The operations are those of the authors' code, in the same order.

The source is pix2pix_turbo.py and attn_processors.py of snap-research/InstantRestore. Both UNets use FreeU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from train.models.bases.extended_attention import Extension
from train.models.io import Conditions
from train.models.timesteps.denoise import draw_noise
from train.models.timesteps.one_step import add_noise, clean_from_noise

TIMESTEP = 249  # The timestep of the noisy LQ latent, from inference/test.py.
REFERENCE_TIMESTEP = 1  # The timestep of the noisy reference latents.
FREEU = {"s1": 0.9, "s2": 0.2, "b1": 1.4, "b2": 1.6}
DRAWS = 4  # the number of random latents of a restoration, see `InstantRestoreBase`


class InstantRestoreBase(nn.Module):
    """Holds the two UNets and the two VAEs of InstantRestore.

    `unet` and `vae` restore the LQ image. The weights of these two networks contain the trained adapters.
    `reference_unet` and `reference_vae` read the references and were not trained. `prompt` (1,77,D) is the output of
    the text encoder. `clip` is the largest absolute value of the clean latent, or None for no limit.

    A restoration draws four random latents from `seed`: for the sample from the LQ image's posterior, for the sample
    from a reference's posterior, for the noise of a reference, and for the noise of the LQ latent. All images of a
    batch share their draws, and all references share theirs (ours). The result of an image therefore does not depend on
    the other images or on the order of the references. The authors' code sets no seed.
    """

    prompt: torch.Tensor

    def __init__(
        self,
        unet: Any,
        vae: Any,
        reference_unet: Any,
        reference_vae: Any,
        prompt: torch.Tensor,
        *,
        adain: bool,
        reads_input: bool,
        clip: float | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.unet, self.vae = unet, vae
        self.reference_unet, self.reference_vae = reference_unet, reference_vae
        self.register_buffer("prompt", prompt, persistent=False)
        self.prompt_dim = prompt.shape[-1]
        self.scaling = float(vae.config.scaling_factor)
        self.clip, self.seed = clip, seed
        for model in (unet, reference_unet):
            model.enable_freeu(**FREEU)
        self.extension = Extension(unet, reference_unet, adain=adain, reads_input=reads_input)
        self.requires_grad_(False)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the noisy latent (B,4,S/8,S/8) at TIMESTEP of an image (B,3,S,S) in 0..1."""
        posterior = self.vae.encode(image * 2 - 1).latent_dist
        draws = self._draw(posterior.mean)
        return add_noise(self._sample(posterior, draws[0]), draws[3], TIMESTEP)

    def predict(self, z: torch.Tensor, conditions: Conditions, timestep: int | torch.Tensor) -> torch.Tensor:
        """Returns the clean latent x0 in the shape of z.

        An image without references attends only to itself, as in the authors' code. The authors never trained the
        network without references.
        """
        self.extension.forget()
        if conditions.encoded is not None and len(conditions.filled):
            self.extension.spread(conditions.encoded.keys_and_values, conditions.present, conditions.filled)
        noise: torch.Tensor = self.unet(z, timestep, encoder_hidden_states=self._repeat_prompt(z)).sample
        return clean_from_noise(z, noise, timestep)

    @torch.no_grad()
    def show(self, references: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Passes references (n,3,S,S) in 0..1 through the frozen UNet, and returns their keys and values."""
        with self.extension.keeping():
            posterior = self.reference_vae.encode(references * 2 - 1).latent_dist
            draws = self._draw(posterior.mean)
            z = add_noise(self._sample(posterior, draws[1]), draws[2], REFERENCE_TIMESTEP)
            self.reference_unet(z, REFERENCE_TIMESTEP, encoder_hidden_states=self._repeat_prompt(z))
        return self.extension.take()

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Returns the image (B,3,S,S) of the clean latent x0. The values of the image are not clamped."""
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
        image: torch.Tensor = self.vae.decode(x0 / self.scaling).sample / 2 + 0.5
        return image

    def _draw(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns the random latents (DRAWS,1,4,h,w) for latents (n,4,h,w)."""
        return draw_noise(self.seed, latents, DRAWS)[:, None]

    def _sample(self, posterior: Any, draw: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = (posterior.mean + posterior.std * draw) * self.scaling
        return z

    def _repeat_prompt(self, z: torch.Tensor) -> torch.Tensor:
        return self.prompt.expand(len(z), -1, -1)
