"""Defines the diffusion base: a frozen Stable Diffusion in the layout of diffusers, with trained adapters."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import nn

from manifests.errors import BadInput
from train.models.bases.extended_attention import Extension
from train.models.config import PROMPT_PARTS, ModelConfig
from train.models.io import Conditions
from train.models.references import zeroed
from train.models.timesteps.one_step import SCHEDULE, clean_from_noise

# We have not seen the list of layers that OSDFace adapted. We adapt the layers that the LoRA training of diffusers
# adapts, because OSDFace's file has the file name that this training writes. Every attention block has the four layers
# of ADAPTED.
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0"]
TOKENS = 77  # The number of tokens in the learned prompt, as in a prompt from Stable Diffusion's text encoder.
SEEN_AT = 1  # The timestep at which the UNet sees references, as in InstantRestore's pix2pix_turbo.py.
# Standard deviation of the random numbers with which the learned prompt starts (ours). Tokens that are equal at the
# start would stay equal in training.
SPREAD = 0.02
# What the scheduler of a base must have, because the formulas in train/models/timesteps/one_step.py need it.
NEEDED_SCHEDULE = {**SCHEDULE, "prediction_type": "epsilon"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class DiffusionBase(nn.Module):
    """Holds the VAE and the UNet of `config.base_model`, frozen in float32.

    Only LoRA and the layers of the parts are trained.

    Part `maps` adds feature maps to the levels of the UNet, in the same places as a T2I-Adapter. Part `embedding` adds
    a vector to the time embedding (ours). Part `extended` lets the self-attention of the decoder see the references, in
    the same layers as InstantRestore (train/models/bases/extended_attention.py). In a denoiser, a new convolution reads
    the LQ latent beside the first convolution of the UNet (ours).

    Raises BadInput if the base cannot be loaded or has an unsuitable architecture.
    """

    unet: Any
    vae: Any

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        parts, name = set(config.parts), config.base_model
        unet_config, vae_config = check_base(config)
        self.unet = _loaded(UNet2DConditionModel, name, "unet")
        self.vae = _loaded(AutoencoderKL, name, "vae")
        self.requires_grad_(False)
        self.prompt_dim = int(unet_config["cross_attention_dim"])
        self.latent_channels = int(vae_config["latent_channels"])
        self.scaling = float(self.vae.config.scaling_factor)
        if config.lora_rank:
            self.unet.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=ADAPTED))
        # At 512 px, the activations need more memory than the weights. Gradient checkpointing saves memory, but
        # computes the activations twice.
        self.unet.enable_gradient_checkpointing()
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

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the latent z (B,4,S/8,S/8) of an image (B,3,S,S) in 0..1. z is the scaled mode of the posterior."""
        z: torch.Tensor = self.vae.encode(image * 2 - 1).latent_dist.mode() * self.scaling
        return z

    def predict(self, z: torch.Tensor, conditions: Conditions, timestep: int | torch.Tensor) -> torch.Tensor:
        """Returns the clean latent x0 in the shape of z. x0 follows from the noise that the UNet predicts.

        `z` is the LQ latent, or the noisy latent of a denoiser. `timestep` is one number, or a tensor (B,) with a
        number per image.
        """
        # Part `extended`: the UNet first sees the references and keeps their keys and values.
        if self.extension is not None:
            self.extension.forget()
            if conditions.references is not None and len(conditions.filled):
                self._show(conditions.references, conditions.present, conditions.filled)
        # Part `maps`: one residual (B,width,h,w) for each level of the encoder.
        more: dict[str, Any] = {}
        if self.joins is not None:
            more["down_intrablock_additional_residuals"] = [
                join(feature_map) for join, feature_map in zip(self.joins, conditions.maps, strict=True)
            ]
        # The prompt (B,N,D) comes from the parts, or is the learned prompt.
        prompt = conditions.prompt
        if prompt is None:
            assert self.prompt is not None
            prompt = self.prompt.expand(len(z), -1, -1)
        noise: torch.Tensor = self.unet(
            z if conditions.lq is None else torch.cat([z, conditions.lq], 1),
            _on_device(timestep, z),
            encoder_hidden_states=prompt,
            class_labels=conditions.identity,
            **more,
        ).sample
        return clean_from_noise(z, noise, timestep)

    @torch.no_grad()
    def _show(self, references: torch.Tensor, present: torch.Tensor, filled: torch.Tensor) -> None:
        """Passes every reference once through the UNet without adapters or noise. The prompt is zeros (ours).

        The frozen UNet of InstantRestore uses the prompt of its text encoder, and noise with a standard deviation of
        0.04.
        """
        assert self.extension is not None
        with self.extension.keeping(present, filled):
            z = self.encode(references.flatten(0, 1)[filled])
            nobody = z.new_zeros(len(z), 0) if self.unet.class_embedding is not None else None
            self.unet(
                z,
                _on_device(SEEN_AT, z),
                encoder_hidden_states=z.new_zeros(len(z), 1, self.prompt_dim),
                class_labels=nobody,
            )

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Returns the image (B,3,S,S) of the clean latent x0, not clamped."""
        image: torch.Tensor = self.vae.decode(x0 / self.scaling).sample / 2 + 0.5
        return image


def _on_device(timestep: int | torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Returns the timestep as a tensor that is made on the device of z, so that the CPU does not wait for a copy."""
    return timestep if isinstance(timestep, torch.Tensor) else torch.full((), timestep, device=z.device)


class _JoinedInput(nn.Module):
    """Adds a convolution of the LQ latent to the first convolution of a UNet. A new module adds zeros."""

    def __init__(self, first: nn.Conv2d) -> None:
        super().__init__()
        self.first = first
        self.lq = zeroed(nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns (B,width,h,w) for the noisy latent and the LQ latent, (B,2C,h,w). If a reference passes through the
        UNet, the input is only the latent of the reference, (B,C,h,w)."""
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
        """Returns (B,width) for embeddings (B,d). If a reference passes through the UNet, the embeddings are (B,0), and
        the result is zero."""
        if not embedding.shape[-1]:
            return embedding.new_zeros(len(embedding), self.width)
        shift: torch.Tensor = self.layers(embedding)
        return shift


def base_fingerprint(base_model: str) -> str:
    """Returns the sha256 of the schedule and of the configs of UNet and VAE, without the entries that have diffusers'
    default values.

    A copy of the model in another folder has the same fingerprint. A copy of the model that another version of
    diffusers saved with more or fewer defaults also has the same fingerprint. The weights are not read. Raises BadInput
    if a config cannot be read.
    """
    unet = _drop_defaults(UNet2DConditionModel, _config(UNet2DConditionModel, base_model, "unet"))
    vae = _drop_defaults(AutoencoderKL, _config(AutoencoderKL, base_model, "vae"))
    schedule = _config(DDIMScheduler, base_model, "scheduler")
    plain = {"unet": unet, "vae": vae, "scheduler": {n: schedule.get(n, value) for n, value in NEEDED_SCHEDULE.items()}}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _drop_defaults(kind: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries of a config that `kind` reads and that differ from the default values. `kind` is a class of
    diffusers."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind.__init__).parameters.items()}
    return {
        name: value
        for name, value in config.items()
        if name in defaults and value != (list(d) if isinstance(d := defaults[name], tuple) else d)
    }


def check_base(
    config: ModelConfig, advice: str = "give Stable Diffusion 2.1-base or a model with the same architecture"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the configs of the UNet and the VAE of a base. Raises BadInput if the restorer cannot use the base.

    The message of the error ends with `advice`.
    """
    base_model = config.base_model
    unet, vae = _config(UNet2DConditionModel, base_model, "unet"), _config(AutoencoderKL, base_model, "vae")
    schedule = _config(DDIMScheduler, base_model, "scheduler")
    latent, inputs, outputs = vae.get("latent_channels"), unet.get("in_channels"), unet.get("out_channels")
    why = None
    if not latent == inputs == outputs:
        why = (
            f"the base's UNet has {inputs} input channels and {outputs} output channels, but the base's VAE has "
            f"{latent} latent channels"
        )
    elif len(vae["block_out_channels"]) != 4:
        why = f"the base's VAE has {len(vae['block_out_channels'])} levels, but the recipe needs 4"
    elif unet.get("addition_embed_type") or unet.get("class_embed_type") or unet.get("encoder_hid_dim_type"):
        why = "the base's UNet needs other inputs than a latent, a timestep and a prompt"
    elif not isinstance(unet.get("cross_attention_dim"), int):
        why = "the base's UNet does not take exactly one prompt"
    elif wrong := [name for name, value in NEEDED_SCHEDULE.items() if schedule.get(name, value) != value]:
        why = f"in the base's scheduler, {wrong[0]} is {schedule[wrong[0]]} and should be {NEEDED_SCHEDULE[wrong[0]]}"
    elif "maps" in config.parts and len(config.reference_channels) > len(unet["block_out_channels"]):
        levels = len(config.reference_channels)
        why = f"the base's UNet has {len(unet['block_out_channels'])} levels, but the recipe needs {levels}"
    if why is not None:
        raise BadInput(f"{base_model} cannot be the base of this recipe, because {why}: {advice}.")
    return unet, vae


def _config(kind: Any, base_model: str, part: str) -> dict[str, Any]:
    if not Path(base_model).is_dir() and not _HUB_NAME.fullmatch(base_model):
        raise _missing(base_model, part, FileNotFoundError(base_model))  # the name is neither a folder nor a hub name
    try:
        config: dict[str, Any] = kind.load_config(base_model, subfolder=part)
    except Exception as error:  # reading from a folder, a hub or a network can raise many kinds of errors
        raise _missing(base_model, part, error) from error
    return config


def _loaded(kind: Any, base_model: str, part: str) -> nn.Module:
    try:
        model: nn.Module = kind.from_pretrained(
            base_model, subfolder=part, torch_dtype=torch.float32, use_safetensors=True
        )
    except Exception as error:  # diffusers raises many kinds of errors for broken files
        raise _missing(base_model, part, error) from error
    return model


def _missing(base_model: str, part: str, error: Exception) -> BadInput:
    if Path(base_model).is_dir():
        why = "contains no" if not (Path(base_model) / part).is_dir() else "has an unusable"
        kind = "config" if "config" in str(error) else "safetensors file; pickled weights are never read"
        return BadInput(
            f"{base_model} {why} {part} ({kind}): give a folder in diffusers' layout, with unet, vae and scheduler, as "
            "--base-model."
        )
    return BadInput(
        f"{base_model} is not a folder, and no model of that name could be loaded from the hub: give a folder "
        "in diffusers' layout as --base-model (docs/recipes.md says where Stable Diffusion 2.1-base is now)."
    )
