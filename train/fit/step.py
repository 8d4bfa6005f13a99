"""One training step up to its gradients: restore, losses, gradients of the model, then of the discriminator.

Nothing here waits for the device: no number is read, and rows of a batch are selected by indices that
`train.data.dataset.to_device` counted on the CPU. The cycle loss of recipe refine is the one exception: it runs part of
the degradation on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from degrade.sampling import make_generator
from train.data import dataset as data
from train.fit.distributed import get_rank
from train.fit.ema import find_trained
from train.fit.engine import Engine
from train.fit.objective import discriminator_loss, generator_term
from train.models.io import Restoration


def compute_gradients(engine: Engine, parts: list[data.Batch], seen: int, seed: int) -> dict[str, torch.Tensor]:
    """Computes the gradients of a batch that comes in parts, clips them, and leaves them to the optimizers.

    Returns figures as scalar tensors on the device, each the mean over the parts of this process:

    loss                    the weighted sum of the terms
    <name of a term>        each term without its weight
    gradient                the norm of the model's gradient before clipping
    discriminator           if the recipe has one: its loss
    discriminator_gradient  and the norm of its gradient before clipping
    no_landmarks            if the recipe warps: share of the inputs without detected landmarks
    not_warped              and share of the references that stayed as aligned
    """
    recipe, discriminator = engine.recipe, engine.discriminator
    sums: dict[str, torch.Tensor] = {}
    for optimizer in filter(None, (engine.optimizer, engine.discriminator_optimizer)):
        optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(parts):
        # Draws of the model and the discriminator follow from the seed, the images seen, the part and the process.
        torch.manual_seed(int(make_generator(seed, "train", "step", seen, number, get_rank()).integers(2**62)))
        last = number == len(parts) - 1

        # The model's side. Processes exchange gradients after the last part only. While the model learns to deceive
        # the discriminator, the discriminator gets no gradient.
        with nullcontext() if last else engine.accelerator.no_sync(engine.stepped):
            inputs = [batch[name] for name in ("lq", "references", "present", "embeddings", "target")]
            restored = engine.stepped(*inputs, step=batch.get("step"), places=batch["places"])
            terms = dict(engine.objective(batch, restored))
            if discriminator is not None:
                with _without_gradients(discriminator):
                    terms["gan"] = generator_term(discriminator, batch, restored)
            loss = sum(
                (recipe.losses[name] * term for name, term in terms.items()), torch.zeros((), device=engine.device)
            )
            (loss / len(parts)).backward()
        figures = {"loss": loss, **terms}

        # The discriminator's side: true and restored faces, both detached from the model.
        if engine.discriminator_stepped is not None:
            detached = Restoration(
                restored.image.detach(),
                restored.latent.detach(),
                None if restored.prompt is None else restored.prompt.detach(),
            )
            with torch.no_grad(), engine.accelerator.autocast():
                true_latent = engine.model.base.encode(batch["target"]).float()
            with nullcontext() if last else engine.accelerator.no_sync(engine.discriminator_stepped):
                term = discriminator_loss(engine.discriminator_stepped, batch, detached, true_latent)
                (term / len(parts)).backward()
            figures["discriminator"] = term

        if "found" in batch:
            figures["no_landmarks"] = 1 - batch["found"].float().mean()
            not_warped = batch["present"] & ~batch["warped"]
            figures["not_warped"] = not_warped.sum() / batch["present"].sum().clamp(min=1)
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / len(parts)

    sums["gradient"] = _clip_gradients(engine.optimizer, recipe.clip)
    if engine.discriminator_optimizer is not None:
        sums["discriminator_gradient"] = _clip_gradients(engine.discriminator_optimizer, recipe.clip)
    return sums


def _clip_gradients(optimizer: torch.optim.Optimizer, clip: float) -> torch.Tensor:
    """Scales the gradients down to a norm of at most `clip` and returns the norm before it."""
    return nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Inside the context no parameter of the module gets a gradient."""
    parameters = list(find_trained(module).values())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
