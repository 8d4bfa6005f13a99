"""Computes the clean latent from a noisy latent and its noise, and the noisy latent from a clean latent and noise.

A timestep is an int, or a tensor (B,) with one timestep for each image.
"""

from __future__ import annotations

from functools import cache
from typing import Any, overload

import torch
from diffusers import DDIMScheduler

# The noise schedule of Stable Diffusion 2.1, as arguments of a scheduler of diffusers.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@cache
def _shares() -> torch.Tensor:
    """Returns alpha-bar of SCHEDULE at all timesteps, (1000,) float64."""
    scheduler = DDIMScheduler(**SCHEDULE)
    shares: torch.Tensor = scheduler.alphas_cumprod  # type: ignore[attr-defined]
    return shares.double()


@cache
def _share_table(device: torch.device) -> torch.Tensor:
    """Returns `_shares()` on a device. The tensor is copied to each device only once."""
    return _shares().to(device)


@cache
def _share_numbers() -> list[float]:
    return [float(share) for share in _shares().numpy()]


@overload
def signal_share(timestep: int) -> float: ...
@overload
def signal_share(timestep: torch.Tensor) -> torch.Tensor: ...
@overload
def signal_share(timestep: int | torch.Tensor) -> float | torch.Tensor: ...


def signal_share(timestep: int | torch.Tensor) -> float | torch.Tensor:
    """Returns alpha-bar at a timestep: a float for an int, and a float32 tensor (B,1,1,1) for a tensor (B,)."""
    if isinstance(timestep, torch.Tensor):
        return _share_table(timestep.device)[timestep].float().view(-1, 1, 1, 1)
    return _share_numbers()[timestep]


def clean_from_noise(z: torch.Tensor, noise: torch.Tensor, timestep: int | torch.Tensor) -> torch.Tensor:
    """Returns x0 = (z - sqrt(1 - a) eps) / sqrt(a), where a is alpha-bar at `timestep`, and eps is `noise`.

    The formula is OSDFace's step (infer.py), where z is the LQ latent. The formula is computed in float32 at least,
    even if the UNet ran in bf16. OSDFace computes the formula in float64.
    """
    share, precise = signal_share(timestep), torch.promote_types(z.dtype, torch.float32)
    z, noise = z.to(precise), noise.to(precise)
    return (z - (1 - share) ** 0.5 * noise) / share**0.5


def add_noise(x0: torch.Tensor, noise: torch.Tensor, timestep: int | torch.Tensor) -> torch.Tensor:
    """Returns sqrt(a) x0 + sqrt(1 - a) eps, where a is alpha-bar at `timestep`, and eps is `noise`.

    The formula is Eq. 4 of DDPM (Ho et al. 2020). `noise` has the shape of x0, or one row for all images.
    """
    share = signal_share(timestep)
    return share**0.5 * x0 + (1 - share) ** 0.5 * noise.to(x0.dtype)
