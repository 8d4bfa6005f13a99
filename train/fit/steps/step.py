"""Restores a batch and computes the losses and the gradients of the model and of the discriminator.

The CPU does not wait for the device here, because this file reads no number from the device. The rows of a batch are
selected by indices that `train.data.to_device.to_device` computed on the CPU. There is one exception: the cycle loss
waits, because it checks the values of the restored images. The cycle loss also runs a part of the degradation on the
CPU, if the workers degraded the targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from degrade.sampling import make_generator
from train.data import dataset as data
from train.fit.adversary import Diffusion, discriminator_loss, draw_diffusion, generator_term
from train.fit.distributed import get_world_size, take_own_part
from train.fit.ema import find_trained
from train.fit.engine import Engine
from train.fit.steps.reference_embeddings import embed_references
from train.models.io import fill_invalid
from train.models.prompts.dictionary import Dictionary
from train.models.timesteps.denoise import NoisyStep
from train.recipes.schedules import find_loss_weights


def compute_gradients(engine: Engine, parts: list[data.Batch], seen: int, seed: int) -> dict[str, torch.Tensor]:
    """Computes and clips the gradients of a batch that comes in parts. The caller updates the parameters. If the engine
    has threads, they compute the parts at the same time.

    Returns the figures as scalar tensors on the device. Every figure except the two norms is a mean over the parts that
    this process computed:

    `loss` is the weighted sum of the terms.
    `<name of a term>` is the value of the term without its weight.
    `gradient` is the norm of the model's gradient before clipping.
    `discriminator` is the loss of the discriminator, if the recipe has a discriminator.
    `discriminator_gradient` is the norm of the discriminator's gradient before clipping.
    `no_landmarks` is the share of inputs without detected landmarks, if the recipe warps references.
    `not_warped` is the share of references that were aligned but not warped, if the recipe warps references.
    """
    weights = find_loss_weights(engine.recipe, seen)
    sums: dict[str, torch.Tensor] = {}
    if isinstance(engine.model, Dictionary):
        engine.model.begin_step(seen)
    for optimizer in filter(None, (engine.optimizer, engine.discriminator_optimizer)):
        optimizer.zero_grad(set_to_none=True)
    compute = partial(_compute_part, engine, weights, seen, seed, len(parts))
    for figures in (map if engine.threads is None else engine.threads.map)(compute, range(len(parts)), parts):
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value / len(parts)

    sums["gradient"] = clip_gradients(engine.optimizer, engine.recipe.clip)
    if engine.discriminator_optimizer is not None:
        sums["discriminator_gradient"] = clip_gradients(engine.discriminator_optimizer, engine.recipe.clip)
    return sums


def _compute_part(
    engine: Engine, weights: dict[str, float], seen: int, seed: int, count: int, number: int, batch: data.Batch
) -> dict[str, torch.Tensor]:
    """Adds the gradients of part `number` of `count` parts to the gradients of the model and of the discriminator.

    Returns the figures of `compute_gradients` for this part, except the norms. Two threads may call this function at
    the same time (train/fit/threads.py).
    """
    recipe, discriminator, last = engine.recipe, engine.discriminator, number == count - 1
    # The seed of this part's random numbers follows from the run's seed, the images seen and the part. The numbers
    # of an image do not depend on the process that computes the image.
    torch.manual_seed(_choose_seed(seed, "step", seen, number))

    # Compute the gradients of the model. The processes exchange gradients only after the last part. The term
    # "gan" gives the discriminator no gradient.
    with nullcontext() if last else engine.accelerator.no_sync(engine.stepped):
        batch = embed_references(engine.encoder, batch)
        inputs = [batch[name] for name in ("lq", "references", "present", "embeddings", "target")]
        true_latent, noisy = _encode_targets(engine, batch), None
        if recipe.denoise:
            draw = torch.Generator().manual_seed(_choose_seed(seed, "noise", seen, number))
            noisy = engine.model.draw_noisy_step(len(batch["lq"]) * get_world_size(), draw)
            noisy = NoisyStep(take_own_part(noisy.timestep), take_own_part(noisy.noise), true_latent)
        restored = engine.stepped(*inputs, places=batch["places"], noisy=noisy)
        restored = fill_invalid(restored, batch["target"], batch["valid"], true_latent)
        terms = dict(engine.objective(batch, restored))
        # The loss of the model and the loss of the discriminator each get their own timesteps and noise. Without
        # noise, both get None.
        diffusions: list[Diffusion | None] = [None, None]
        if discriminator is not None and recipe.diffused_timesteps:
            draw = torch.Generator().manual_seed(_choose_seed(seed, "diffusion", seen, number))
            diffusions = [draw_diffusion(recipe.diffused_timesteps, restored.latent, draw) for _ in diffusions]
        if discriminator is not None:
            with _without_gradients(discriminator):
                terms["gan"] = generator_term(discriminator, batch, restored, diffusions[0])
        loss = sum((weights[name] * term for name, term in terms.items()), torch.zeros((), device=engine.device))
        (loss / count).backward()
    figures = {"loss": loss, **terms}

    # Compute the gradients of the discriminator on true and restored faces. No gradient reaches the model.
    if engine.discriminator_stepped is not None:
        with nullcontext() if last else engine.accelerator.no_sync(engine.discriminator_stepped):
            term = discriminator_loss(engine.discriminator_stepped, batch, restored, true_latent, diffusions[1])
            (term / count).backward()
        figures["discriminator"] = term

    # If the recipe warps references, measure the share of inputs and references that could not be warped.
    if "found" in batch:
        figures["no_landmarks"] = 1 - batch["found"].float().mean()
        not_warped = batch["present"] & ~batch["warped"]
        figures["not_warped"] = not_warped.sum() / batch["present"].sum().clamp(min=1)
    return {name: value.detach() for name, value in figures.items()}


def _encode_targets(engine: Engine, batch: data.Batch) -> torch.Tensor | None:
    """Returns the latents of the targets, (B,C,h,w) float32, or None if the step needs no latents."""
    if engine.latents is None and engine.recipe.discriminator != "latent":
        return None
    with torch.no_grad(), engine.accelerator.autocast():
        if engine.latents is not None:
            return engine.latents.encode(batch)
        latents: torch.Tensor = engine.model.base.encode(batch["target"])
        return latents.float()


def _choose_seed(seed: int, purpose: str, seen: int, part: int) -> int:
    # The 0 at the end was once the number of the process. It stays, so that old runs are resumed with the same numbers.
    return int(make_generator(seed, "train", purpose, seen, part, 0).integers(2**62))


def clip_gradients(optimizer: torch.optim.Optimizer, clip: float) -> torch.Tensor:
    """Scales the gradients down to a norm of at most `clip`, if `clip` is not 0. Returns the norm before scaling."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, clip or math.inf)


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Turns off the gradients of all parameters of the module inside the context."""
    parameters = list(find_trained(module).values())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
