"""Computes R1, the gradient penalty of StyleGAN2's discriminator (Karras et al. 2020).

As in StyleGAN2, R1 is computed only at some steps (`Recipe.r1_every`).
"""

from __future__ import annotations

import torch

from train.data.dataset import Batch
from train.fit.engine import Engine
from train.fit.steps.step import clip_gradients
from train.models.discriminator import FaceDiscriminator
from train.recipes.recipes import Recipe


def is_penalty_due(recipe: Recipe, seen: int) -> bool:
    """Returns whether the step after `seen` images also updates the discriminator with R1."""
    return recipe.r1 > 0 and (seen // recipe.batch) % recipe.r1_every == 0


def compute_penalty(discriminator: FaceDiscriminator, images: torch.Tensor) -> torch.Tensor:
    """Returns the mean squared norm of the gradient of the logits, a scalar. `images` (B,3,S,S) in 0..1 are true faces.

    The gradient is taken with respect to the images in -1..1, and computed in float32.
    """
    images = (2 * images - 1).detach().requires_grad_()
    logits = discriminator.network(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def compute_penalty_gradients(engine: Engine, parts: list[Batch]) -> None:
    """Computes the gradients of R1 for a batch that comes in parts. The caller updates the discriminator.

    At a step with R1, ReFine updates the discriminator twice: with its loss, and then with R1. The weight of R1 is
    multiplied by `r1_every`, so that R1 has the same effect as if it were computed at every step. The loss of the
    discriminator and R1 both have half of ReFine's weight (`discriminator_loss`).
    """
    recipe, discriminator, optimizer = engine.recipe, engine.discriminator, engine.discriminator_optimizer
    assert isinstance(discriminator, FaceDiscriminator) and optimizer is not None
    optimizer.zero_grad(set_to_none=True)
    for batch in parts:
        penalty = compute_penalty(discriminator, batch["target"])
        (recipe.r1 / 2 * recipe.r1_every / 2 * penalty / len(parts)).backward()
    for parameter in discriminator.parameters():
        # R1 does not depend on the last bias, so this bias has no gradient, and Adam would skip the bias. With a
        # gradient of zero, the moments that Adam keeps for the bias become smaller.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if engine.accelerator.num_processes > 1:
            parameter.grad = engine.accelerator.reduce(parameter.grad, reduction="mean")
    clip_gradients(optimizer, recipe.clip)
