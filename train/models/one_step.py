"""One step at one timestep: the algebra between noise, latent and clean latent.

A timestep is an int, or a tensor (B,) of one an image.
"""

from __future__ import annotations

from functools import cache
from typing import overload

import torch
from diffusers import DDIMScheduler


@cache
def _shares() -> torch.Tensor:
    """alpha-bar of Stable Diffusion 2.1's schedule (scaled linear, beta .00085 to .012, 1000 steps), float64."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    shares: torch.Tensor = scheduler.alphas_cumprod  # type: ignore[attr-defined]
    return shares.double()


@cache
def _share_table(device: torch.device) -> torch.Tensor:
    """Returns the shares on a device, copied once."""
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
    """alpha-bar at a timestep; of a tensor (B,) a float32 tensor (B,1,1,1)."""
    if isinstance(timestep, torch.Tensor):
        return _share_table(timestep.device)[timestep].float().view(-1, 1, 1, 1)
    return _share_numbers()[timestep]


def clean_from_noise(z: torch.Tensor, noise: torch.Tensor, timestep: int | torch.Tensor) -> torch.Tensor:
    """x0 = (z - sqrt(1 - a) eps) / sqrt(a), OSDFace's step (infer.py): the LQ latent stands for the noisy one.

    In float32 at least, whatever precision the UNet ran in; OSDFace's is float64.
    """
    share, precise = signal_share(timestep), torch.promote_types(z.dtype, torch.float32)
    z, noise = z.to(precise), noise.to(precise)
    return (z - (1 - share) ** 0.5 * noise) / share**0.5


def noise_of_correction(z: torch.Tensor, correction: torch.Tensor, timestep: int | torch.Tensor) -> torch.Tensor:
    """The eps for which x0 = z + correction: a UNet that ends in zeros then starts by returning its input (ours)."""
    share, correction = signal_share(timestep), correction.to(z.dtype)
    return (z - share**0.5 * (z + correction)) / (1 - share) ** 0.5
