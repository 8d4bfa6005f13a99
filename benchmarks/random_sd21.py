"""Writes a model with the shape of Stable Diffusion 2.1-base and random weights, to measure speed and memory."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from train.models.timesteps.one_step import SCHEDULE


def write_random_sd21(folder: Path) -> None:
    """Writes the model of 3.8 GB into `folder` in the layout of diffusers.

    The numbers are from unet/config.json and vae/config.json of the real model.
    """
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
