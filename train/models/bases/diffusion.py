"""Defines the diffusion base: a frozen Stable Diffusion in the layout of diffusers, with trained adapters."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderTiny
from peft import LoraConfig
from torch import nn

from train.models.bases.base_folder import check_base, load_base
from train.models.bases.extended_attention import Extension
from train.models.config import PROMPT_PARTS, ModelConfig
from train.models.io import Conditions
from train.models.references import zeroed
from train.models.timesteps.one_step import clean_from_noise

# The layers of each attention block that get adapters. We have not seen the list of layers that OSDFace adapted. The
# LoRA training of diffusers writes a file of the same name as OSDFace's, so we adapt the layers that this training
# adapts.
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0"]
TOKENS = 77  # The number of tokens of the learned prompt, as in Stable Diffusion's prompts.
SEEN_AT = 1  # The timestep of a reference in the UNet, as in InstantRestore's pix2pix_turbo.py.
# The learned prompt starts with random numbers of this standard deviation (ours). Tokens that are equal at the start
# would stay equal in training.
SPREAD = 0.02


class DiffusionBase(nn.Module):
    """Holds the VAE and the UNet of `config.base_model`, frozen and in float32.

    Only the LoRA adapters, the learned prompt and the layers that are named below are trained.

    Part `maps` adds feature maps to the levels of the UNet, in the same places as a T2I-Adapter. Part `embedding` adds
    a vector to the time embedding (ours). Part `extended` lets the self-attention of the decoder see the references, in
    the same layers as InstantRestore (train/models/bases/extended_attention.py). In a denoiser, a new convolution reads
    the LQ latent, and its output is added to that of the UNet's first convolution (ours).

    Raises BadInput if the base cannot be loaded or has an unsuitable architecture.
    """

    unet: Any
    vae: Any

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        parts = set(config.parts)
        unet_config, vae_config = check_base(config)
        self.unet, self.vae = load_base(config.base_model)
        self.requires_grad_(False)
        self.prompt_dim = int(unet_config["cross_attention_dim"])
        self.latent_channels = int(vae_config["latent_channels"])
        self.scaling = float(self.vae.config.scaling_factor)
        if config.lora_rank:
            self.unet.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=ADAPTED))
        # At 512 px, the activations need more memory than the weights. Gradient checkpointing saves this memory, but
        # computes the activations twice.
        self.unet.enable_gradient_checkpointing()
        # An AutoencoderTiny has small activations. With gradient checkpointing, it would expect images in 0..1 instead
        # of -1..1.
        if not isinstance(self.vae, AutoencoderTiny):
            self.vae.enable_gradient_checkpointing()

        if config.denoise:
            self.unet.conv_in = _JoinedInput(self.unet.conv_in)
        self.extension = Extension(self.unet) if "extended" in parts else None
        self.prompt = None
        if not PROMPT_PARTS & parts:
            self.prompt = nn.Parameter(SPREAD * torch.randn(1, TOKENS, self.prompt_dim))
        self.joins = None
        if "maps" in parts:
            widths = unet_config["block_out_channels"]
            self.joins = nn.ModuleList(
                zeroed(nn.Conv2d(2 * c, width, 1)) for c, width in zip(config.reference_channels, widths, strict=False)
            )
        if "embedding" in parts:
            # diffusers adds the output of `class_embedding` to the time embedding. The input of `class_embedding` is an
            # identity embedding.
            self.unet.class_embedding = _Shift(config.embedding_dim, self.unet.time_embedding.linear_2.out_features)

    def keep_activations(self) -> None:
        """Turns gradient checkpointing off. A training step is then faster and needs more memory."""
        self.unet.disable_gradient_checkpointing()
        self.vae.disable_gradient_checkpointing()

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the latent z (B,C,S/8,S/8) of an image (B,3,S,S) in 0..1. C is 4 in Stable Diffusion 2.1.

        z is the scaled mode of the posterior. An AutoencoderTiny has no posterior, so z is its scaled latent.
        """
        encoded = self.vae.encode(image * 2 - 1)
        z: torch.Tensor = encoded.latents if isinstance(self.vae, AutoencoderTiny) else encoded.latent_dist.mode()
        # A VAE can return the memory format channels_last, in which the UNet is slower on a CPU in float32.
        return (z * self.scaling).contiguous()

    def predict(self, z: torch.Tensor, conditions: Conditions, timestep: int | torch.Tensor) -> torch.Tensor:
        """Returns the clean latent x0 in the shape of z, computed from the noise that the UNet predicts.

        `z` is the LQ latent, or the noisy latent of a denoiser. `timestep` is one number, or a tensor (B,) with a
        number per image.
        """
        # Part `extended`: give the keys and values of the references to the attention layers.
        if self.extension is not None:
            self.extension.forget()
            if conditions.encoded is not None and len(conditions.filled):
                shown = conditions.encoded.keys_and_values
                self.extension.spread(shown, conditions.present, conditions.filled)
        # Part `maps`: compute one map (B,width,h,w) for each level of the UNet's encoder. The UNet adds each map to its
        # own map of the level.
        more: dict[str, Any] = {}
        if self.joins is not None:
            more["down_intrablock_additional_residuals"] = [
                join(feature_map) for join, feature_map in zip(self.joins, conditions.maps, strict=True)
            ]
        # The prompt (B,N,D) comes from the parts, or is the learned prompt.
        prompt = conditions.prompt
        if prompt is None:
            assert self.prompt is not None
            prompt = self.prompt.expand(z.shape[0], -1, -1)
        noise: torch.Tensor = self.unet(
            z if conditions.lq is None else torch.cat([z, conditions.lq], 1),
            _on_device(timestep, z),
            encoder_hidden_states=prompt,
            class_labels=conditions.identity,
            **more,
        ).sample
        return clean_from_noise(z, noise, timestep)

    @torch.no_grad()
    def show(self, references: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Passes references (n,3,S,S) in 0..1 through the UNet, and returns the keys and values that Extension keeps.

        The adapters are off, the latents have no noise, and the prompt is zeros (ours). In InstantRestore, the prompt
        is from the text encoder, and the latents have noise with a standard deviation of 0.04.
        """
        assert self.extension is not None
        with self.extension.keeping():
            z = self.encode(references)
            nobody = z.new_zeros(len(z), 0) if self.unet.class_embedding is not None else None
            self.unet(
                z,
                _on_device(SEEN_AT, z),
                encoder_hidden_states=z.new_zeros(len(z), 1, self.prompt_dim),
                class_labels=nobody,
            )
        return self.extension.take()

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Returns the image (B,3,S,S) of the clean latent x0. The values of the image are not clamped."""
        image: torch.Tensor = self.vae.decode(x0 / self.scaling).sample / 2 + 0.5
        return image


def _on_device(timestep: int | torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Returns the timestep as a tensor on the device of z. The tensor is created on this device, because the
    CPU would wait for a copy."""
    return timestep if isinstance(timestep, torch.Tensor) else torch.full((), timestep, device=z.device)


class _JoinedInput(nn.Module):
    """Adds a convolution of the LQ latent to the first convolution of a UNet. A new module adds zeros."""

    def __init__(self, first: nn.Conv2d) -> None:
        super().__init__()
        self.first = first
        self.lq = zeroed(nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns (B,width,h,w) for (B,2C,h,w), the noisy latent and the LQ latent, or for (B,C,h,w), the latent of a
        reference."""
        z, *lq = latents.split(self.first.in_channels, 1)
        h: torch.Tensor = self.first(z)
        return h + self.lq(lq[0]) if lq else h


class _Shift(nn.Module):
    """Computes the vector that part `embedding` adds to the time embedding. A new module returns zeros."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), zeroed(nn.Linear(width, width)))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Returns (B,width) for embeddings (B,d). In the pass of the references, the embeddings are (B,0), and the
        result is zero."""
        if not embedding.shape[-1]:
            return embedding.new_zeros(len(embedding), self.width)
        shift: torch.Tensor = self.layers(embedding)
        return shift
