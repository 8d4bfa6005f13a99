"""Defines the inputs and the outputs of a restoration step. The fields of parts that the recipe does not have are None
or empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.nn import functional as F


class Group(NamedTuple):
    """Holds the indices of all images in a batch that have the same number k of references."""

    rows: torch.Tensor  # (m,) int64: the images.
    slots: torch.Tensor  # (m,k) int64: for each image, the slots that have a reference.


class Places(NamedTuple):
    """Holds the indices of the references in a batch. Each image has K slots for references, and a slot can be empty.

    The model selects references by these indices, which are computed on the CPU. With a boolean mask on the GPU
    instead, the CPU would have to wait for the GPU in each step.
    """

    filled: torch.Tensor  # (n,) int64: the slots that have a reference; slot k of image b has the number b K + k.
    groups: tuple[Group, ...]  # Every image of the batch is in one group.


def find_places(present: torch.Tensor) -> Places:
    """Returns the indices of the slots that have a reference. `present` (B,K), bool, is False for empty slots. A
    `present` on a GPU makes the CPU wait."""
    return Places(present.flatten().nonzero()[:, 0], _find_groups(present))


def _find_groups(present: torch.Tensor) -> tuple[Group, ...]:
    counts = present.sum(1)
    groups = []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        groups.append(Group(rows, present[rows].nonzero()[:, 1].view(len(rows), count)))
    return tuple(groups)


class EncodedReferences(NamedTuple):
    """Holds what a restorer computes from n references. The fields of parts that the restorer does not have are empty.

    The tensors do not depend on the face that is restored, so `restore` computes them once for all faces.
    """

    maps: tuple[torch.Tensor, ...] = ()  # Part `maps`, and `extended` on tiny: (n,C,h,w) for each scale, finest first.
    features: tuple[torch.Tensor, ...] = ()  # Part `features`: (n,C,h,w), only the coarsest scale.
    # Part `extended` on diffusion: the keys and the values (n,N,C) of each layer of Extension.
    keys_and_values: tuple[torch.Tensor, ...] = ()


def join_encoded(references: Sequence[EncodedReferences]) -> EncodedReferences:
    """Joins several objects into one, in the same order. The sequence must not be empty."""
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
    groups: tuple[Group, ...]  # The images, grouped by their number of references, see Places.
    prompt: torch.Tensor | None = None  # Parts `vre`, `identity` and `features`: the tokens (B,N,D).
    maps: list[torch.Tensor] = field(default_factory=list)  # Part `maps`: (B,2C,h,w) for each scale, finest first.
    identity: torch.Tensor | None = None  # Part `embedding`: (B,d), the mean embedding or a learned vector.
    references: torch.Tensor | None = None  # (B,K,3,S,S) in 0..1, which only base stylegan reads.
    # Part `extended` on diffusion: the references of all filled slots, in the order of `filled`.
    encoded: EncodedReferences | None = None
    # Part `extended` on tiny: (B,K,N,C), the features at the N positions of the middle map of each reference.
    tokens: torch.Tensor | None = None
    lq: torch.Tensor | None = None  # A denoiser: (B,C,h,w), the LQ latent.


class Restoration(NamedTuple):
    """Holds the outputs of a restoration."""

    image: torch.Tensor  # The restored image (B,3,S,S), clamped to 0..1 in eval mode.
    latent: torch.Tensor  # The clean latent, from which the image is decoded.
    prompt: torch.Tensor | None  # The prompt of the UNet (B,N,D), or None if no part makes a prompt.
    terms: Mapping[str, torch.Tensor] = MappingProxyType({})  # The losses that the model of recipe vre itself computes.
    # Recipe vre: the pairs (reconstruction, input) of the HQ and of the LQ autoencoder, all (B,3,s,s) in 0..1. The
    # reconstructions are not clamped.
    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()


def fill_invalid(
    restored: Restoration, target: torch.Tensor, valid: torch.Tensor, true_latent: torch.Tensor | None = None
) -> Restoration:
    """Returns the restoration with the target's pixels where `valid` is False.

    The losses of train/fit/objective.py then ignore these pixels. The losses from `restored.terms` and `restored.pairs`
    (recipe vre) do not ignore them.

    `target` is (B,3,S,S), and `valid` is (B,1,S,S) bool. `true_latent` is the latent of the target, or None. If
    `true_latent` is given, invalid positions of the latent are replaced too. A position of the latent is valid if all
    its pixels are valid.
    """
    image = torch.where(valid, restored.image, target.to(restored.image.dtype))
    latent = restored.latent
    if true_latent is not None:
        whole = -F.adaptive_max_pool2d(-valid.to(latent.dtype), latent.shape[-2:])
        latent = torch.where(whole > 0.5, latent, true_latent.to(latent.dtype))
    return restored._replace(image=image, latent=latent)
