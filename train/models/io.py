"""Defines the inputs and the outputs of a restoration step. If the recipe lacks a part, the fields of this part are
None or empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.nn import functional as F


class Group(NamedTuple):
    """Holds the indices of all images of a batch that have the same number k of references."""

    rows: torch.Tensor  # (m,) int64: the images
    slots: torch.Tensor  # (m,k) int64: for each image, the slots that have a reference


class Places(NamedTuple):
    """Holds the indices of the references in a batch.

    The model selects rows by these indices. With a boolean mask on a GPU, the CPU would wait until the GPU has counted
    the selected rows. The indices are computed on the CPU, so a training step does not wait.

    Each image has K slots for references, and a slot can be empty.
    """

    filled: torch.Tensor  # (n,) int64: the slots that have a reference; slot k of image b has the number b K + k.
    groups: tuple[Group, ...]  # every image of the batch is in one group


def find_places(present: torch.Tensor) -> Places:
    """Returns the indices for `present` (B,K) bool. If `present` is on a GPU, `find_places` waits for the GPU."""
    return Places(present.flatten().nonzero()[:, 0], _find_groups(present))


def _find_groups(present: torch.Tensor) -> tuple[Group, ...]:
    counts = present.sum(1)
    groups = []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        groups.append(Group(rows, present[rows].nonzero()[:, 1].view(len(rows), count)))
    return tuple(groups)


class EncodedReferences(NamedTuple):
    """Holds what a restorer computes from each of n references alone. If the restorer lacks a part, its field is empty.

    A face does not change these tensors, so `restore` computes them once for all faces.
    """

    maps: tuple[torch.Tensor, ...] = ()  # Parts `maps` and `extended` of tiny: (n,C,h,w) for each scale, finest first.
    features: tuple[torch.Tensor, ...] = ()  # Part `features`: (n,C,h,w), only the coarsest scale.
    # Part `extended` on diffusion: the keys and the values (n,N,C) of each layer of Extension.
    keys_and_values: tuple[torch.Tensor, ...] = ()


def join_encoded(references: Sequence[EncodedReferences]) -> EncodedReferences:
    """Returns the references of a sequence, which must not be empty, in one object, in the same order."""
    return EncodedReferences(
        *(tuple(map(torch.cat, zip(*field, strict=True))) for field in zip(*references, strict=True))
    )


@dataclass(frozen=True)
class Conditions:
    """Holds all inputs of a step except the latent.

    train/models/restorer.py makes the conditions from a batch, and the bases read the conditions.
    """

    present: torch.Tensor  # (B,K) bool, False for an empty slot; K can be 0.
    filled: torch.Tensor  # (n,) int64: the slots that have a reference, see Places.
    groups: tuple[Group, ...]  # the images by their number of references, see Places
    prompt: torch.Tensor | None = None  # (B,N,D), the tokens of the VRE and of the identity embedder.
    maps: list[torch.Tensor] = field(default_factory=list)  # Part `maps`: (B,2C,h,w) for each scale, finest first.
    identity: torch.Tensor | None = None  # Part `embedding`: (B,d), the mean embedding or a learned vector.
    references: torch.Tensor | None = None  # (B,K,3,S,S) in 0..1. Only base stylegan reads the pictures themselves.
    # The references of all filled slots, in the order of `filled`. Part `extended` on diffusion reads this field.
    encoded: EncodedReferences | None = None
    # Part `extended` on tiny: (B,K,N,C), the N positions of the middle map of each reference.
    tokens: torch.Tensor | None = None
    lq: torch.Tensor | None = None  # A denoiser: (B,C,h,w), the LQ latent.


class Restoration(NamedTuple):
    """Holds the outputs of a restoration."""

    image: torch.Tensor  # (B,3,S,S); clamped to 0..1 in eval mode.
    latent: torch.Tensor  # The clean latent, from which the image is decoded.
    prompt: torch.Tensor | None  # (B,N,D), the prompt of the UNet, or None if no part makes a prompt.
    terms: Mapping[str, torch.Tensor] = MappingProxyType({})  # Losses that the model itself computes (recipe vre).
    # Recipe vre: the reconstruction and the input of the HQ and of the LQ autoencoder, each (B,3,s,s) in 0..1. The
    # reconstructions are not clamped.
    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()


def fill_invalid(
    restored: Restoration, target: torch.Tensor, valid: torch.Tensor, true_latent: torch.Tensor | None = None
) -> Restoration:
    """Returns the restoration with the target's pixels in place of the pixels that are not valid.

    So the losses of train/fit/objective.py ignore the pixels that are not valid. The losses of `restored.terms` and
    `restored.pairs` (recipe vre) use these pixels too.

    `target` is (B,3,S,S), `valid` is (B,1,S,S) bool. `true_latent` is the latent of the target, or None. If
    `true_latent` is given, the latent is filled in the same way. A position of the latent is valid if all its pixels
    are valid.
    """
    image = torch.where(valid, restored.image, target.to(restored.image.dtype))
    latent = restored.latent
    if true_latent is not None:
        whole = -F.adaptive_max_pool2d(-valid.to(latent.dtype), latent.shape[-2:])
        latent = torch.where(whole > 0.5, latent, true_latent.to(latent.dtype))
    return restored._replace(image=image, latent=latent)
