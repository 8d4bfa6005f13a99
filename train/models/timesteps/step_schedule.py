"""Computes the timesteps of a restoration in several steps, and adds noise to a clean latent between two steps.

The first step takes the LQ latent as the noisy latent at the timestep of the recipe. Each later step adds noise to the
clean latent at a lower timestep, and restores the noisy latent again under the same conditions. The method in this
file is ours. We have not seen the timesteps and the code of IDM (arXiv 2307.08996).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from manifests.errors import BadInput
from train.models.timesteps.one_step import signal_share

MOST_STEPS = 8  # the largest number of steps (ours)


def check_steps(steps: int) -> None:
    """Raises BadInput if `steps` is not in 1..MOST_STEPS."""
    if not 1 <= steps <= MOST_STEPS:
        raise BadInput(f"--steps {steps} is out of range: give 1 to {MOST_STEPS}.")


@dataclass(frozen=True)
class Schedule:
    """Holds the timesteps of a restorer that was trained for `steps` steps."""

    first: int  # The highest timestep, from the recipe.
    steps: int  # The number of steps in training.

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Returns `steps` timesteps at equal distances, highest first: 399, 299, 200, 100 for first=399 and steps=4."""
        return tuple(round(self.first * (self.steps - k) / self.steps) for k in range(self.steps))

    def visited(self, steps: int) -> tuple[int, ...]:
        """Returns the timesteps of a restoration in `steps` steps, evenly chosen from `timesteps`.

        The model is called only at timesteps from its training. Raises BadInput if `steps` is larger than the number
        of steps in training.
        """
        check_steps(steps)
        if steps > self.steps:
            several = "one step" if self.steps == 1 else f"at most {self.steps} steps"
            raise BadInput(
                f"This restorer was trained for {several}, not for {steps}: give --steps {self.steps} or less, or "
                f"train a restorer with `likeness train --steps {steps}`."
            )
        return tuple(self.timesteps[k * self.steps // steps] for k in range(steps))


def add_noise(x0: torch.Tensor, noise: torch.Tensor, timestep: int | torch.Tensor) -> torch.Tensor:
    """Returns sqrt(a) x0 + sqrt(1 - a) eps, where a is alpha-bar at `timestep`, and eps is `noise`.

    The previous step predicted x0 and eps.

    The formula is DDIM without random noise (Song et al. 2021, Eq. 12 with sigma 0). After the first step, eps is the
    scaled difference between the LQ latent and the clean latent. So each step after the first sees the LQ latent and
    the clean latent. At a lower timestep, the share of the clean latent is larger. No random number is drawn, so the
    same input always gives the same result.
    """
    share = signal_share(timestep)
    return share**0.5 * x0 + (1 - share) ** 0.5 * noise.to(x0.dtype)
