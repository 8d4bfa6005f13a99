"""Loads the configs and the networks of a diffusion base from a folder or a hub, and computes the base's
fingerprint."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import nn

from manifests.errors import BadInput
from train.models.config import ModelConfig
from train.models.timesteps.one_step import SCHEDULE

# The values that the scheduler config of a base must have. The formulas in train/models/timesteps/one_step.py need
# them.
NEEDED_SCHEDULE = {**SCHEDULE, "prediction_type": "epsilon"}
# The classes of diffusers that the VAE of a base can have. The base is a light base if its VAE is an AutoencoderTiny,
# for example TAESD.
VAES: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
LEVELS = 4  # number of levels of the VAE; three of them halve the resolution, so a latent has 1/8 of the resolution
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def base_fingerprint(base_model: str) -> str:
    """Returns a sha256 of the noise schedule and of the configs of UNet and VAE. The weights are not read.

    Entries with diffusers' default values are left out. The fingerprint is therefore the same in another folder, and
    for a copy that another version of diffusers saved. Raises BadInput if a config cannot be read.
    """
    unet = _drop_defaults(UNet2DConditionModel, _config(UNet2DConditionModel, base_model, "unet"))
    vae_config = _vae_config(base_model)
    vae = _drop_defaults(VAES[vae_config["_class_name"]], vae_config)
    if vae_config["_class_name"] != "AutoencoderKL":  # AutoencoderKL is the default class, so it is left out
        vae["_class_name"] = vae_config["_class_name"]
    schedule = _config(DDIMScheduler, base_model, "scheduler")
    plain = {"unet": unet, "vae": vae, "scheduler": {n: schedule.get(n, value) for n, value in NEEDED_SCHEDULE.items()}}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _drop_defaults(kind: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries of a config that are arguments of `kind`, a class of diffusers, and differ from the
    defaults."""
    defaults = _defaults(kind)
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
    unet, vae = _config(UNet2DConditionModel, base_model, "unet"), _vae_config(base_model)
    vae = {**_defaults(VAES[vae["_class_name"]]), **vae}
    schedule = _config(DDIMScheduler, base_model, "scheduler")
    latent, inputs, outputs = vae.get("latent_channels"), unet.get("in_channels"), unet.get("out_channels")
    why = None
    if not latent == inputs == outputs:
        why = (
            f"the base's UNet has {inputs} input channels and {outputs} output channels, but the base's VAE has "
            f"{latent} latent channels"
        )
    elif wrong_levels := [count for count in _count_levels(vae) if count != LEVELS]:
        why = f"the base's VAE has {wrong_levels[0]} levels, but the recipe needs {LEVELS}"
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


def load_base(base_model: str) -> tuple[Any, Any]:
    """Returns the UNet and the VAE of a base in float32. Raises BadInput if the UNet or the VAE cannot be loaded."""
    vae = VAES[_vae_config(base_model)["_class_name"]]
    return _loaded(UNet2DConditionModel, base_model, "unet"), _loaded(vae, base_model, "vae")


def _defaults(kind: Any) -> dict[str, Any]:
    """Returns the default value of each argument of `kind`, a class of diffusers."""
    arguments = list(inspect.signature(kind.__init__).parameters.items())[1:]  # without `self`
    return {name: parameter.default for name, parameter in arguments}


def _vae_config(base_model: str) -> dict[str, Any]:
    """Returns the config of the VAE of a base, with its class as `_class_name`.

    Raises BadInput if the class is not in VAES.
    """
    config = _config(AutoencoderKL, base_model, "vae")
    kind = config.setdefault("_class_name", "AutoencoderKL")
    if kind not in VAES:
        raise BadInput(
            f"{base_model} cannot be the base of this recipe, because the base's VAE is of the class {kind}: give a "
            f"base whose VAE is of the class {' or '.join(VAES)}."
        )
    return config


def _count_levels(vae: dict[str, Any]) -> list[int]:
    """Returns the numbers of levels of a VAE: one number, or for an AutoencoderTiny those of its encoder and its
    decoder."""
    if vae["_class_name"] == "AutoencoderTiny":
        return [len(vae[f"{side}_block_out_channels"]) for side in ("encoder", "decoder")]
    return [len(vae["block_out_channels"])]


def _config(kind: Any, base_model: str, part: str) -> dict[str, Any]:
    if not Path(base_model).is_dir() and not _HUB_NAME.fullmatch(base_model):
        raise _missing(base_model, part, FileNotFoundError(base_model))  # the name is neither a folder nor a hub name
    try:
        config: dict[str, Any] = kind.load_config(base_model, subfolder=part)
    except Exception as error:  # diffusers and the hub raise many kinds of errors
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
