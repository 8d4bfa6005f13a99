"""Writes a small model in the layout of Stable Diffusion 2.1-base, with random weights."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel

WIDTHS = (16, 24, 32, 32)  # SD 2.1 has the widths 320, 640, 1280, 1280.
PROMPT = 24  # The cross_attention_dim, which is 1024 in SD 2.1.
# UNET has the other settings of SD 2.1-base's unet/config.json, with smaller sizes.
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": WIDTHS,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 1,
    "cross_attention_dim": PROMPT,
    "attention_head_dim": (2, 3, 4, 4),
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
# These entries replace entries of UNET in tests of training. With these entries, the UNet has 3 levels instead of 4,
# and 5 attention blocks instead of 10.
SHALLOW: dict[str, Any] = {
    "block_out_channels": WIDTHS[:3],
    "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) * 2 + ("CrossAttnUpBlock2D",),
    "attention_head_dim": (2, 3, 4),
}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
# TAESD has the width 64 and (1, 3, 3, 3) blocks.
TINY_VAE: dict[str, Any] = {
    "encoder_block_out_channels": (8,) * 4,
    "decoder_block_out_channels": (8,) * 4,
    "num_encoder_blocks": (1,) * 4,
    "num_decoder_blocks": (1,) * 4,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}


def write_mini_sd(
    folder: Path,
    unet: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    safe: bool = True,
) -> Path:
    """Writes the folders unet, vae and scheduler into `folder`. The weights are always the same.

    The arguments replace entries of the configurations.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = UNet2DConditionModel(**UNET | (unet or {}))
        whole.save_pretrained(folder / "unet", safe_serialization=safe)
        AutoencoderKL(**VAE | (vae or {})).save_pretrained(folder / "vae", safe_serialization=safe)
    DDIMScheduler(**SCHEDULE | (schedule or {})).save_pretrained(folder / "scheduler")
    return folder


def write_light_sd(folder: Path, unet: dict[str, Any] | None = None, vae: dict[str, Any] | None = None) -> Path:
    """Writes the folders of `write_mini_sd`, but the VAE is an AutoencoderTiny. `vae` replaces entries of TINY_VAE."""
    write_mini_sd(folder, unet)
    shutil.rmtree(folder / "vae")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoencoderTiny(**TINY_VAE | (vae or {})).save_pretrained(folder / "vae")
    return folder
