"""Writes a model with the shape of Stable Diffusion 2.1-base and random weights, to measure speed and memory."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from train.models.timesteps.one_step import SCHEDULE


def write_random_sd21(folder: Path, divisor: int = 1) -> None:
    """Writes the model of 3.8 GB into `folder` in the layout of diffusers.

    The numbers are from unet/config.json and vae/config.json of the real model. `divisor` divides the numbers of
    channels: with a divisor of 8, the model has the same layers and 60 MB.
    """
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(width // divisor for width in (320, 640, 1280, 1280)),
        cross_attention_dim=1024 // divisor,
        norm_num_groups=32 // divisor,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=tuple(width // divisor for width in (128, 256, 512, 512)),
        norm_num_groups=32 // divisor,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
