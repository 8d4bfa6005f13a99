"""Builds the discriminator of a recipe, and computes the adversarial losses of the model and of the discriminator."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from manifests.errors import BadInput
from train.fit.distributed import get_world_size, take_own_part
from train.models.config import PROMPT_PARTS, StyleganConfig
from train.models.discriminator import (
    DictionaryDiscriminator,
    FaceDiscriminator,
    LatentDiscriminator,
    PatchDiscriminator,
)
from train.models.io import Restoration
from train.models.timesteps.one_step import add_noise
from train.recipes.recipes import DISCRIMINATORS, Recipe


def build_discriminator(recipe: Recipe, latent_channels: int, prompt_dim: int | None) -> nn.Module | None:
    """Returns the discriminator of a recipe with random weights, or None if the recipe has no discriminator.

    If the recipe has a part of PROMPT_PARTS, the latent discriminator also sees the prompt. A token of the prompt has
    `prompt_dim` numbers.
    """
    match recipe.discriminator:
        case "":
            return None
        case "latent":
            prompted = bool(PROMPT_PARTS & set(recipe.parts))
            return LatentDiscriminator(latent_channels, prompt_dim if prompted else None, recipe.diffused_timesteps > 0)
        case "image":
            return PatchDiscriminator()
        case "dictionary":
            return DictionaryDiscriminator()
        case "stylegan":
            return FaceDiscriminator(StyleganConfig(recipe.size, limit=recipe.channel_limit))
    raise BadInput(
        f"There is no discriminator {recipe.discriminator}: write {', '.join(filter(None, DISCRIMINATORS))}, or leave "
        "the text empty."
    )


class Diffusion(NamedTuple):
    """Holds the noise with which a discriminator sees latents.

    A true face and its restored face have the same timestep and different noise, as in a re-implementation of OSDFace
    (ManaswiYadamreddy/CRAFT).
    """

    timestep: torch.Tensor  # (B,) int64
    noise: torch.Tensor  # (B,C,h,w) float32, standard normal, for the restored latents.
    true_noise: torch.Tensor  # (B,C,h,w) float32, standard normal, for the true latents.


def draw_diffusion(timesteps: int, latent: torch.Tensor, draw: torch.Generator) -> Diffusion:
    """Returns random timesteps from 0 to `timesteps` - 1, and random noise for latents in the shape of `latent`.

    `draw` is a generator on the CPU, so the numbers are the same on every device. If several processes train together,
    each process draws the numbers for the images of all processes, and takes its own part.
    """
    shape = (len(latent) * get_world_size(), *latent.shape[1:])
    timestep = torch.randint(timesteps, shape[:1], generator=draw)
    noise, true_noise = (torch.randn(shape, generator=draw) for _ in range(2))
    device = latent.device
    return Diffusion(*(take_own_part(one).to(device, non_blocking=True) for one in (timestep, noise, true_noise)))


def generator_term(
    discriminator: nn.Module, batch: dict[str, Any], restored: Restoration, diffusion: Diffusion | None = None
) -> torch.Tensor:
    """Returns the loss "gan": the mean of softplus(-logit) over all logits of the restored faces.

    Recipe vre has two autoencoders, and its loss is the sum over HQ and LQ. If `diffusion` is given, the discriminator
    sees the restored latents with noise.

    No gradient goes through the prompt (ours). If a gradient went through the prompt, training would change the prompt
    to deceive the discriminator, and the prompt would describe the face less well.
    """
    image, _ = _list_images(batch, restored)
    latent, timestep = restored.latent, None
    if diffusion is not None:
        latent, timestep = add_noise(latent.float(), diffusion.noise, diffusion.timestep), diffusion.timestep
    # `logits` are (B,1,h,w), one for each patch of each restored face, or (B,1), one for each restored face.
    logits = discriminator(image, latent, _fact(restored.prompt), timestep=timestep)
    return F.softplus(-logits.float()).mean() * max(1, len(restored.pairs))


def discriminator_loss(
    discriminator: nn.Module,
    batch: dict[str, Any],
    restored: Restoration,
    true_latent: torch.Tensor | None,
    diffusion: Diffusion | None = None,
) -> torch.Tensor:
    """Returns the binary cross entropy of the discriminator's logits for true faces and for restored faces.

    `true_latent` is the latent of the target, in the shape of `restored.latent`, or None if the discriminator sees only
    images. If `diffusion` is given, the discriminator sees latents with noise. In recipe vre, the true faces are the
    inputs of the two autoencoders. Each true face gets the prompt of its restored face. No gradient reaches the model.
    A single call of the discriminator gets true and restored faces together, because DDP expects a single call before
    each backward pass.

    ReFine's loss is twice as large as this loss, and ReFine's R1 is twice as large as ours. Adam's steps do not depend
    on a common factor of all losses.
    """
    # Put the true faces before the restored faces: 2B images, latents and prompts, all without gradients.
    prompt, latent = _fact(restored.prompt), restored.latent.detach()
    image, truth = (part.detach() for part in _list_images(batch, restored))
    if true_latent is not None:
        latent = torch.cat([true_latent.detach().to(latent.dtype), latent])
    timestep = None
    if diffusion is not None:
        timestep = torch.cat([diffusion.timestep, diffusion.timestep])
        latent = add_noise(latent.float(), torch.cat([diffusion.true_noise, diffusion.noise]), timestep)
    logits = discriminator(
        torch.cat([truth.to(image.dtype), image]),
        latent,
        None if prompt is None else torch.cat([prompt, prompt]),
        halves=True,
        timestep=timestep,
    ).float()
    # Both (B,1,h,w) or (B,1). A true face should have a high logit, and a restored face a low logit.
    true_logits, restored_logits = logits.chunk(2)
    return (F.softplus(-true_logits).mean() + F.softplus(restored_logits).mean()) / 2


def _list_images(batch: dict[str, Any], restored: Restoration) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the restored faces and the true faces that a discriminator compares.

    In recipe vre, the restored faces are the reconstructions, and the true faces are the inputs. In both, the HQ faces
    come first, and then the LQ faces.
    """
    if not restored.pairs:
        return restored.image, batch["target"]
    again, truth = zip(*restored.pairs, strict=True)
    return torch.cat(again), torch.cat(truth)


def _fact(prompt: torch.Tensor | None) -> torch.Tensor | None:
    """Returns the prompt without its gradient."""
    return None if prompt is None else prompt.detach()
