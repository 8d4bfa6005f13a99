"""Computes the losses of a recipe in float32. train/fit/adversary.py computes the adversarial losses.

There are two exceptions: in a training in bf16, the recognizer and VGG-16 compute in bf16.

The sources of the losses, and the networks that the losses use:

    `pixel`, `edge`, `detail` and `shown_detail` are ours. `shown_detail` is `detail` for the images that have a
        reference of their own person.
    `mse` is from OSDFace.
    `ea_dists` is from OSDFace and uses vgg16.
    `identity` is from OSDFace, HonestFace and InstantRestore, and uses the recipe's identity encoder: the dataset's
        recognizer as a torch module, or IR-SE50.
    `identity_maps` is ours: `identity` with the feature maps of the dataset's recognizer in place of its embeddings.
    `reference_identity` is from ReFine, and uses the recipe's identity encoder.
    `lpips` and `ms_ssim` are from InstantRestore. `lpips` uses vgg16.
    `spatial_min` and `cycle` are from ReFine and use vgg16.
    `face_alignment` is HonestFace's idea with our formula.
    `gan` is the non-saturating loss (Goodfellow 2014), and uses a discriminator.
    `reconstruction`, `codebook` and `association` are from OSDFace's stage 1, and the model itself computes them.
    `reconstruction_lpips` is LPIPS with vgg16 (ours), in place of the perceptual loss of OSDFace's stage 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from manifests.errors import BadInput
from train.losses.against_references import cycle_loss, spatial_min_loss
from train.losses.alignment import face_alignment_loss
from train.losses.backbones import load_backbone
from train.losses.identity import identity_loss, identity_maps_loss, reference_identity_loss
from train.losses.names import (
    ADVERSARIAL,
    LOSSES,
    OF_DETAIL,
    OF_PIXELS,
    THROUGH_BACKBONE,
    THROUGH_DISTS,
    THROUGH_LPIPS,
    THROUGH_RECOGNIZER,
)
from train.losses.perceptual import Dists, Lpips
from train.losses.pixel import (
    DETAIL_SQUARE,
    WINDOW,
    detail_loss,
    edge_loss,
    ms_ssim_exponents,
    ms_ssim_loss,
    mse_loss,
    pixel_loss,
    sobel_magnitude,
)
from train.losses.resolution import limit_resolution
from train.models.identity.identity_encoder import IdentityEncoder
from train.models.identity.recognizer import Recognizer
from train.models.io import Restoration
from train.models.released.ir_se50 import find_ir_se50
from train.recipes.model_configs import find_encoder_shape
from train.recipes.recipes import Recipe


def list_backbones(recipe: Recipe) -> set[str]:
    """Returns the names of the backbones that the losses of a recipe use (train/losses/backbones.py)."""
    return {"vgg16"} if any(name in recipe.losses for name in THROUGH_BACKBONE) else set()


def check_weights(recipe: Recipe, folder: Path | None) -> None:
    """Loads each backbone that the recipe needs, and looks for the file of IR-SE50.

    Raises BadInput if a backbone is missing and cannot be downloaded, or if the file of IR-SE50 is missing.
    Call this function before any long work. `folder` is the value of --weights. A missing backbone is downloaded into
    torch hub's cache if possible.
    """
    if find_encoder_shape(recipe) is not None:
        find_ir_se50(folder)
    for backbone in sorted(list_backbones(recipe)):
        load_backbone(backbone, folder)


class Recognized(NamedTuple):
    """Holds what a recognizer computes from a batch of faces."""

    embedding: torch.Tensor  # (B,d) with rows of length 1
    maps: tuple[torch.Tensor, ...]  # feature maps, each (B,C,h,w); empty if no loss compares maps


class Objective(nn.Module):
    """Computes the losses of a recipe for faces of `size` px. The module has no trained parameters.

    Move the module to the device of the batches. The losses in THROUGH_RECOGNIZER need `recognizer`; without a
    recognizer, leave these losses out of `recipe.losses`. `weights` is the folder with the files of the backbones.
    `precision` is fp32 or bf16: with bf16, the convolutions of VGG-16 run in bfloat16. On one core of an Intel Xeon
    with AMX, `spatial_min` and its gradient took .87 s with bf16 and 1.87 s with fp32 for four images of 128 px. On
    real faces, the cosine between the gradient in bf16 and the gradient in fp32 was .987. Raises BadInput if a loss
    does not exist, if the recognizer or the backbone of a loss is missing, or if the faces are too small.
    """

    def __init__(
        self,
        recipe: Recipe,
        size: int,
        recognizer: Recognizer | IdentityEncoder | None,
        weights: Path | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.names = tuple(recipe.losses)
        self.limit_resolution = recipe.limit_resolution and any(name in OF_PIXELS for name in self.names)
        if unknown := [name for name in self.names if name not in LOSSES]:
            raise BadInput(f"There is no loss {unknown[0]}; the losses are {', '.join(LOSSES)}.")
        # Check that each loss has its recognizer and a large enough face before the backbone is loaded.
        blind = [name for name in self.names if name in THROUGH_RECOGNIZER]
        if blind and recognizer is None:
            raise BadInput(
                f"Loss {blind[0]} needs a recognizer with an ONNX file: give --no-identity to train without this loss."
            )
        if blind and recipe.identity_jitter and isinstance(recognizer, IdentityEncoder):
            raise BadInput(
                'identity_jitter moves the crop of the dataset\'s recognizer: set identity_encoder = "recognizer", or '
                "give --change identity_jitter=0."
            )
        if "identity_maps" in self.names:
            if isinstance(recognizer, IdentityEncoder):
                raise BadInput(
                    'Loss identity_maps needs the recognizer of the dataset: set identity_encoder = "recognizer", or '
                    "give --loss identity_maps=0."
                )
            if recognizer is not None and not recognizer.has_maps:
                raise BadInput(
                    "The recognizer of the dataset has no feature maps, which loss identity_maps compares: give --loss "
                    "identity_maps=0."
                )
        self.exponents = ms_ssim_exponents(size)
        if "ms_ssim" in self.names and not self.exponents:
            raise BadInput(f"Loss ms_ssim needs faces of {WINDOW} px or more, not {size}.")
        if (of_detail := [name for name in OF_DETAIL if name in self.names]) and size % DETAIL_SQUARE:
            raise BadInput(
                f"Loss {of_detail[0]} needs faces whose side is a multiple of {DETAIL_SQUARE} px, not {size}."
            )
        # LPIPS and DISTS share one VGG-16. A network that no loss uses is None.
        features = load_backbone("vgg16", weights) if list_backbones(recipe) else nn.Sequential()
        if precision == "bf16":  # bf16 is fast only in the order of channels_last
            features = features.to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recognizer: Recognizer | IdentityEncoder | None = recognizer if blind else None
        self.lpips = Lpips(features) if any(name in self.names for name in THROUGH_LPIPS) else None
        self.dists = Dists(features) if any(name in self.names for name in THROUGH_DISTS) else None

    def forward(self, batch: dict[str, Any], restored: Restoration) -> dict[str, torch.Tensor]:
        """Returns the terms by name: float32 scalars, averaged over the batch and without their weights.

        There is one term for each name in `recipe.losses`, but no term for "gan". train/data/dataset.py makes `batch`.
        Gradients reach only `restored`.
        """
        # Both (B,3,S,S) float32. Autocast is off, so that every loss runs in float32. Only the recognizer and
        # VGG-16 have a precision of their own.
        image, target = restored.image.float(), batch["target"].detach().float()
        with torch.autocast(image.device.type, enabled=False):
            recognized, truth = self._recognize(image, target, batch.get("identity_map"))
            # `pixels` has the two images that the losses in OF_PIXELS compare, both (B,3,S,S).
            pixels = image, target
            if self.limit_resolution:
                enlarged = batch["upsample"], batch.get("enlarged_rows")
                pixels = limit_resolution(image, *enlarged), limit_resolution(target, *enlarged)
            return {
                name: self._term(name, image, target, pixels, recognized, truth, batch, restored)
                for name in self.names
                if name != ADVERSARIAL
            }

    def _recognize(
        self, image: torch.Tensor, target: torch.Tensor, moves: torch.Tensor | None
    ) -> tuple[Recognized, Recognized]:
        """Returns what the recognizer computes from restored faces and from their targets. The targets get no gradient.

        A restored face and its target are moved by the same matrix of `moves` (B,2,3), see `Recipe.identity_jitter`.
        If no loss needs the recognizer or the targets, their tensors are empty.
        """
        found = [Recognized(image.new_zeros(0), ())] * 2
        if self.recognizer is None:
            return found[0], found[1]
        compares_targets = "identity" in self.names or "identity_maps" in self.names
        for place, faces in enumerate((image, target) if compares_targets else (image,)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and place == 0):
                if isinstance(self.recognizer, IdentityEncoder):
                    found[place] = Recognized(self.recognizer(faces), ())
                else:
                    embedding, maps = self.recognizer.embed_with_maps(faces, moves)
                    found[place] = Recognized(embedding, maps if "identity_maps" in self.names else ())
        return found[0], found[1]

    def _term(
        self,
        name: str,
        image: torch.Tensor,
        target: torch.Tensor,
        pixels: tuple[torch.Tensor, torch.Tensor],
        recognized: Recognized,
        truth: Recognized,
        batch: dict[str, Any],
        restored: Restoration,
    ) -> torch.Tensor:
        """Returns the unweighted loss `name` as a scalar.

        `pixels` has `image` and `target` for the losses in OF_PIXELS, with limited resolution if the recipe limits the
        resolution. `recognized` and `truth` are the results of `_recognize`.
        """
        match name:
            # The next losses compare the pixels of `image` and `target`, both (B,3,S,S) in 0..1.
            case "pixel":
                return pixel_loss(*pixels)
            case "edge":
                return edge_loss(*pixels)
            case "detail":
                return detail_loss(*pixels)
            case "shown_detail":
                return detail_loss(*pixels, _usable(batch).any(1))
            case "mse":
                return mse_loss(*pixels)
            case "ms_ssim":
                return ms_ssim_loss(image, target, self.exponents)
            case "face_alignment":
                return face_alignment_loss(image, target, batch["landmarks"])
            # The next losses compare embeddings of the recognizer. The embeddings of the target have no gradient.
            case "identity":
                return identity_loss(recognized.embedding, truth.embedding)
            case "identity_maps":
                return identity_maps_loss(recognized.maps, truth.maps)
            case "reference_identity":
                return reference_identity_loss(
                    recognized.embedding, batch["embeddings"].detach().float(), _usable(batch)
                )
            # The next losses compare features of VGG-16. The features of the target need no gradient.
            case "lpips":
                return self._measure_lpips(image, target)
            case "reconstruction_lpips":
                # The sum over the HQ and the LQ autoencoder.
                distances = [self._measure_lpips(again.float(), truth.float()) for again, truth in restored.pairs]
                return torch.stack(distances).sum()
            case "spatial_min":
                assert self.lpips is not None
                # (B,K,3,S,S). The loss must not use an empty slot, or a reference of another person.
                references = batch["references"].detach().float()
                return spatial_min_loss(self.lpips, image, target, references, _list_usable_rows(batch))
            case "cycle":
                assert self.lpips is not None
                # The restored face is degraded again with the parameters `theta` of each image.
                lq = batch["lq"].detach().float()
                return cycle_loss(self.lpips, image, lq, batch["theta"], batch.get("device_noise", False))
            case "ea_dists":
                assert self.dists is not None
                # OSDFace adds DISTS of the edge maps to DISTS of the images.
                edges = self.dists(sobel_magnitude(image), sobel_magnitude(target))
                return (self.dists(image, target) + edges).mean()
        # The model itself computes the other losses of recipe vre.
        return restored.terms[name].float()

    def _measure_lpips(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean LPIPS of two batches of images (B,3,S,S) in 0..1. The target gets no gradient."""
        assert self.lpips is not None
        with torch.no_grad():
            layers = self.lpips(target)
        return self.lpips.distance(self.lpips(image), layers).mean()


def _usable(batch: dict[str, Any]) -> torch.Tensor:
    """Returns (B,K) bool. A slot is True if it has a reference of the target's own person."""
    usable: torch.Tensor = batch["present"] & batch["right"][:, None]
    return usable


def _list_usable_rows(batch: dict[str, Any]) -> list[torch.Tensor]:
    """Returns K tensors (n,) int64: the indices of the images whose reference in slot k shows the target's own person.

    `to_device` finds the images on the CPU and adds them to the batch as `usable_rows`. If a batch has no
    `usable_rows`, this function finds the images itself and waits for the device.
    """
    if "usable_rows" in batch:
        rows: list[torch.Tensor] = batch["usable_rows"]
        return rows
    return [slot.nonzero()[:, 0] for slot in _usable(batch).unbind(1)]
