"""What a recipe is trained by: every loss that its table names, computed in float32, and the adversary's side.

name                source                                             needs
pixel, edge         ours                                               -
mse                 OSDFace                                            -
ea_dists            OSDFace                                            vgg16
identity            OSDFace, HonestFace, InstantRestore                the dataset's recognizer, as a torch module
reference_identity  ReFine                                             the same
lpips, ms_ssim      InstantRestore                                     vgg16 for lpips
spatial_min, cycle  ReFine                                             vgg16
face_alignment      HonestFace's idea, our formula                     -
gan                 non-saturating, as in Goodfellow et al. 2014       a discriminator
reconstruction,     OSDFace's stage 1, computed by the model itself    -
codebook, association
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manifests.errors import BadInput
from train.backbones import load_backbone
from train.losses.against_references import cycle_loss, spatial_min_loss
from train.losses.alignment import face_alignment_loss
from train.losses.identity import identity_loss, reference_identity_loss
from train.losses.perceptual import Dists, Lpips
from train.losses.pixel import WINDOW, edge_loss, ms_ssim_exponents, ms_ssim_loss, mse_loss, pixel_loss, sobel_magnitude
from train.models.discriminator import LatentDiscriminator, PatchDiscriminator
from train.models.io import Restoration
from train.models.recognizer import Recognizer
from train.recipes import Recipe

ADVERSARIAL = "gan"
BY_MODEL = ("reconstruction", "codebook", "association")
THROUGH_RECOGNIZER = ("identity", "reference_identity")
THROUGH_LPIPS = ("lpips", "spatial_min", "cycle")
THROUGH_DISTS = ("ea_dists",)
THROUGH_BACKBONE = THROUGH_LPIPS + THROUGH_DISTS
OF_PICTURES = ("pixel", "edge", "mse", "ms_ssim", "face_alignment")
LOSSES = OF_PICTURES + THROUGH_RECOGNIZER + THROUGH_BACKBONE + (ADVERSARIAL,) + BY_MODEL


def needs(recipe: Recipe) -> set[str]:
    """The backbones, by their name in train/backbones.py, that the losses of a recipe look through."""
    return {"vgg16"} if any(name in recipe.losses for name in THROUGH_BACKBONE) else set()


def check_weights(recipe: Recipe, folder: Path | None) -> None:
    """Raises BadInput where a backbone that the recipe needs is not to be had; call it before anything takes long.

    `folder` is --weights. A backbone that lies nowhere is downloaded into torch hub's cache.
    """
    for backbone in sorted(needs(recipe)):
        load_backbone(backbone, folder)


class Objective(nn.Module):
    """The losses of a recipe for faces of `size` px. Nothing in it is trained; move it to the device of the batches.

    `recognizer` is needed by the losses in THROUGH_RECOGNIZER: leave them out of `recipe.losses` where there is none.
    `weights` is the folder with the backbones' files. Raises BadInput for a loss that does not exist or lacks what it
    needs.
    """

    def __init__(self, recipe: Recipe, size: int, recognizer: Recognizer | None, weights: Path | None = None) -> None:
        super().__init__()
        self.names = tuple(recipe.losses)
        if unknown := [name for name in self.names if name not in LOSSES]:
            raise BadInput(f"There is no loss {unknown[0]}; the losses are {', '.join(LOSSES)}.")
        blind = [name for name in self.names if name in THROUGH_RECOGNIZER]
        if blind and recognizer is None:
            raise BadInput(f"Loss {blind[0]} needs a recognizer with an ONNX file: say --no-identity to train without.")
        self.exponents = ms_ssim_exponents(size)
        if "ms_ssim" in self.names and not self.exponents:
            raise BadInput(f"Loss ms_ssim needs faces of {WINDOW} px or more, not {size}.")
        features = load_backbone("vgg16", weights) if needs(recipe) else nn.Sequential()
        self.recognizer = recognizer if blind else None
        self.lpips = Lpips(features) if any(name in self.names for name in THROUGH_LPIPS) else None
        self.dists = Dists(features) if any(name in self.names for name in THROUGH_DISTS) else None

    def forward(self, batch: dict[str, Any], restored: Restoration) -> dict[str, torch.Tensor]:
        """The unweighted terms, means over the batch, by the names in `recipe.losses` without "gan".

        `batch` is train/data/dataset.py's; a loss reads of it what it needs. Gradients reach `restored` alone.
        """
        image, target = restored.image.float(), batch["target"].detach().float()
        with torch.autocast(image.device.type, enabled=False):
            embedding = None if self.recognizer is None else self.recognizer(image)
            return {
                name: self._term(name, image, target, embedding, batch, restored)
                for name in self.names
                if name != ADVERSARIAL
            }

    def _term(
        self,
        name: str,
        image: torch.Tensor,
        target: torch.Tensor,
        embedding: torch.Tensor | None,
        batch: dict[str, Any],
        restored: Restoration,
    ) -> torch.Tensor:
        match name:
            case "pixel":
                return pixel_loss(image, target)
            case "edge":
                return edge_loss(image, target)
            case "mse":
                return mse_loss(image, target)
            case "ms_ssim":
                return ms_ssim_loss(image, target, self.exponents)
            case "face_alignment":
                return face_alignment_loss(image, target, batch["landmarks"])
            case "identity":
                assert self.recognizer is not None and embedding is not None
                with torch.no_grad():
                    truth = self.recognizer(target)
                return identity_loss(embedding, truth)
            case "reference_identity":
                assert embedding is not None
                return reference_identity_loss(embedding, batch["embeddings"].detach().float(), _usable(batch))
            case "lpips":
                assert self.lpips is not None
                with torch.no_grad():
                    layers = self.lpips(target)
                return self.lpips.distance(self.lpips(image), layers).mean()
            case "spatial_min":
                assert self.lpips is not None
                references = batch["references"].detach().float()
                return spatial_min_loss(self.lpips, image, target, references, _list_usable_rows(batch))
            case "cycle":
                assert self.lpips is not None
                return cycle_loss(self.lpips, image, batch["lq"].detach().float(), batch["theta"])
            case "ea_dists":
                assert self.dists is not None
                edges = self.dists(sobel_magnitude(image), sobel_magnitude(target))
                return (self.dists(image, target) + edges).mean()
        return restored.terms[name].float()


def _usable(batch: dict[str, Any]) -> torch.Tensor:
    """(B,K) bool: the slots that show a reference of the target's own person."""
    usable: torch.Tensor = batch["present"] & batch["right"][:, None]
    return usable


def _list_usable_rows(batch: dict[str, Any]) -> list[torch.Tensor]:
    """Returns for each slot the images with a reference of the target's own person there, each (n,) int64.

    `to_device` has counted them on the CPU. Counting them here waits for the device.
    """
    if "usable_rows" in batch:
        rows: list[torch.Tensor] = batch["usable_rows"]
        return rows
    return [slot.nonzero()[:, 0] for slot in _usable(batch).unbind(1)]


def build_discriminator(recipe: Recipe, latent_channels: int, prompt_dim: int | None) -> nn.Module | None:
    """The discriminator that a recipe names, with random weights; None where it names none.

    It sees the prompt, of `prompt_dim` numbers a token, where the recipe has a part that makes one.
    """
    match recipe.discriminator:
        case "":
            return None
        case "latent":
            prompted = "vre" in recipe.parts or "identity" in recipe.parts
            return LatentDiscriminator(latent_channels, prompt_dim if prompted else None)
        case "image":
            return PatchDiscriminator()
    raise BadInput(f"There is no discriminator {recipe.discriminator}; say latent, image or nothing.")


def generator_term(discriminator: nn.Module, batch: dict[str, Any], restored: Restoration) -> torch.Tensor:
    """The loss "gan": the mean over patches of softplus(-logit) of what was restored.

    The prompt is shown to the discriminator as a fact: no gradient goes through it, or the prompt would learn to
    please the discriminator instead of describing the face (ours).
    """
    logits = discriminator(restored.image, restored.latent, _fact(restored.prompt))
    return F.softplus(-logits.float()).mean()


def discriminator_loss(
    discriminator: nn.Module, batch: dict[str, Any], restored: Restoration, true_latent: torch.Tensor
) -> torch.Tensor:
    """Binary cross entropy of the discriminator's logits, half true faces and half restored, each with its prompt.

    `true_latent` is the target's, of the shape of `restored.latent`. No gradient reaches the model. The discriminator
    is called once, on both halves, as processes that share gradients need it.
    """
    prompt = _fact(restored.prompt)
    image, latent = restored.image.detach(), restored.latent.detach()
    logits = discriminator(
        torch.cat([batch["target"].detach().to(image.dtype), image]),
        torch.cat([true_latent.detach().to(latent.dtype), latent]),
        None if prompt is None else torch.cat([prompt, prompt]),
    ).float()
    true, made = logits.chunk(2)
    return (F.softplus(-true).mean() + F.softplus(made).mean()) / 2


def _fact(prompt: torch.Tensor | None) -> torch.Tensor | None:
    return None if prompt is None else prompt.detach()
