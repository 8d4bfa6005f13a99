"""Draws the noise of a denoiser, and restores faces with a denoiser in one step or in several steps.

A denoiser computes the clean latent x0 from a noisy latent, the timestep of the noise, and the LQ latent.

In training, the noisy latent is the target's latent with noise, as in DDPM (Ho et al. 2020). In a restoration, the
target is not known, so the first noisy latent is the LQ latent with noise for the highest timestep (ours). Each step
computes x0, and the sampler then computes the noisy latent of the next, lower timestep. The result is the x0 of the
last step.

We have seen only the abstract of IDM (arXiv 2307.08996). IDM may compute the noisy latent in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import DPMSolverMultistepScheduler

from train.models.timesteps.one_step import SCHEDULE, add_noise

SOLVER_ORDER = 1  # DPM-Solver++ of order 1 is DDIM without random noise (Lu et al. 2022)


class NoisyStep(NamedTuple):
    """Holds the timesteps and the noise of a training batch."""

    timestep: torch.Tensor  # (B,) int64.
    noise: torch.Tensor  # (B,C,h,w) float32, standard normal.
    target_latent: torch.Tensor | None = None  # (B,C,h,w) float32; None if the model itself encodes the targets.


def draw_noisy_step(
    highest: int, shape: tuple[int, int, int, int], draw: torch.Generator, device: torch.device
) -> NoisyStep:
    """Returns random timesteps from 1 to `highest`, and random noise for latents of `shape` (B,C,h,w).

    `draw` is a generator on the CPU, so the numbers are the same for every `device`.
    """
    timestep, noise = torch.randint(1, highest + 1, shape[:1], generator=draw), torch.randn(shape, generator=draw)
    return NoisyStep(timestep.to(device, non_blocking=True), noise.to(device, non_blocking=True))


def draw_noise(seed: int, latents: torch.Tensor, count: int = 1) -> torch.Tensor:
    """Returns normal random numbers (count,C,h,w) for latents (n,C,h,w). The numbers are the same on every device.

    With count=1, all images of a batch get the same noise (ours). The result for an image then does not depend on the
    other images.
    """
    noise = torch.randn(count, *latents.shape[1:], generator=torch.Generator().manual_seed(seed))
    return noise.to(latents)


def list_timesteps(highest: int, steps: int) -> list[int]:
    """Returns `steps` timesteps at equal distances, highest first: 999, 749, 500, 250 for highest=999 and steps=4."""
    return [round(highest * (steps - k) / steps) for k in range(steps)]


def sample(
    lq: torch.Tensor, predict: Callable[[torch.Tensor, int], torch.Tensor], highest: int, steps: int, seed: int
) -> torch.Tensor:
    """Returns the clean latents (B,C,h,w) after `steps` steps.

    `lq` (B,C,h,w) are the LQ latents. `predict` gets the noisy latents (B,C,h,w) and their timestep, and returns the
    clean latents. The noise is drawn once from `seed`, and no other random number is drawn. `highest`, the first
    timestep, must be at least `steps`.
    """
    scheduler: Any = DPMSolverMultistepScheduler(
        **SCHEDULE, solver_order=SOLVER_ORDER, prediction_type="sample", final_sigmas_type="zero"
    )
    timesteps = list_timesteps(highest, steps)
    scheduler.set_timesteps(timesteps=timesteps)
    z = add_noise(lq, draw_noise(seed, lq), highest)
    for timestep in timesteps:
        z = scheduler.step(predict(z, timestep), timestep, z, return_dict=False)[0]
    return z
