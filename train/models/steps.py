"""Several steps instead of one: at which timesteps, and how a clean latent goes back to a lower one.

The first step is the one step: the LQ latent stands for the noisy one at the recipe's timestep. Each further step
re-noises its answer to a lower timestep and restores again, with every condition of the first. All of it is ours: IDM
(arXiv 2307.08996) published neither its timesteps nor its code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from manifests.errors import BadInput
from train.models.one_step import signal_share

MOST_STEPS = 8  # ours


def check_steps(steps: int) -> None:
    """Raises BadInput for a number of steps that there is not."""
    if not 1 <= steps <= MOST_STEPS:
        raise BadInput(f"--steps {steps}: say 1 to {MOST_STEPS}.")


@dataclass(frozen=True)
class Schedule:
    """The timesteps of a restorer that was trained for so many steps, the highest first, in equal parts down to 0."""

    first: int  # the recipe's timestep
    steps: int  # it was trained for

    @property
    def timesteps(self) -> tuple[int, ...]:
        """399, 299, 200, 100 for a first of 399 and four steps."""
        return tuple(round(self.first * (self.steps - k) / self.steps) for k in range(self.steps))

    def visited(self, steps: int) -> tuple[int, ...]:
        """Those that a restoration in `steps` steps visits: some of them, evenly, so that it asks at no other.

        Raises BadInput for more steps than were trained.
        """
        check_steps(steps)
        if steps > self.steps:
            several = "one step" if self.steps == 1 else f"at most {self.steps} steps"
            raise BadInput(
                f"This restorer was trained for {several}, not for {steps}: say --steps {self.steps} or less, or train "
                f"one with `likeness train --steps {steps}`."
            )
        return tuple(self.timesteps[k * self.steps // steps] for k in range(steps))


def renoised(x0: torch.Tensor, noise: torch.Tensor, timestep: int | torch.Tensor) -> torch.Tensor:
    """sqrt(a) x0 + sqrt(1 - a) eps at `timestep`, with the eps of the step before: DDIM's, which draws nothing (Song et
    al. 2021, Eq. 12 with sigma 0).

    After the first step that eps holds what sets the LQ latent apart from the answer, so a later step sees both of
    them, the answer the more the lower the timestep. The same input gives the same answer without a seed.
    """
    share = signal_share(timestep)
    return share**0.5 * x0 + (1 - share) ** 0.5 * noise.to(x0.dtype)
