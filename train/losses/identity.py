"""Computes identity losses from the cosines between embeddings, or between feature maps, of the recognizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from train.losses.names import THROUGH_RECOGNIZER

SHORT = 0.1  # Vectors of a feature map that are shorter than this share (ours) of the mean length count less.


def decide_identity_loss(
    losses: Mapping[str, float], spec: str, can_be_trained_through: bool, wanted: bool
) -> dict[str, Any]:
    """Returns {"on": bool, "why": str}: whether the losses that use the identity encoder are on, and the reason.

    `losses` maps the name of each loss of a recipe to its weight. `spec` names the identity encoder.
    `can_be_trained_through` is True if gradients can pass through the encoder. Gradients can pass through IR-SE50, and
    through a recognizer that has an ONNX file. `wanted` is False if --no-identity was given.
    """
    weights = ", ".join(f"{name} {losses[name]:g}" for name in THROUGH_RECOGNIZER if name in losses)
    if not weights:
        return {"on": False, "why": "no loss of the recipe uses the recognizer"}
    if not wanted:
        return {"on": False, "why": "--no-identity was given"}
    if not can_be_trained_through:
        return {"on": False, "why": f"the recognizer {spec} has no ONNX file"}
    return {"on": True, "why": f"{weights}, computed with {spec}"}


def describe_identity_loss(losses: Mapping[str, float], decision: Mapping[str, Any]) -> list[str]:
    """Returns a list with one notice if `decision` turns off losses of the recipe, otherwise an empty list.

    `losses` is the argument of `decide_identity_loss` with this name, and `decision` is its result.
    """
    off = [name for name in THROUGH_RECOGNIZER if name in losses]
    if decision["on"] or not off:
        return []
    which = f"loss {off[0]} is" if len(off) == 1 else f"losses {' and '.join(off)} are"
    return [f"Notice: the {which} off, because {decision['why']}."]


def identity_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean of 1 - cosine over unit embeddings (B,d): 0 for equal faces, about 1 for strangers."""
    return (1 - (restored * target).sum(1)).mean()


def identity_maps_loss(restored: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the mean distance between the feature maps of two batches of faces (ours): 0 for equal faces.

    `restored` and `target` have the same maps of a recognizer, each (B,C,h,w). At each position of a map, the two
    vectors of C numbers are normalised. The distance at this position is half of the squared distance of the two
    vectors, which is 1 - cosine. The loss is the mean over the positions, the faces and the maps.
    """
    means = []
    for ours, true in zip(restored, target, strict=True):
        ours, true = ours.float(), true.float()
        # A vector that is much shorter than the vectors of the target becomes shorter than 1, because the gradient of
        # its direction would be very large.
        least = SHORT * true.norm(dim=1, keepdim=True).mean((2, 3), keepdim=True) + 1e-6
        means.append((_shorten(ours, least) - _shorten(true, least)).square().sum(1).mean() / 2)
    return torch.stack(means).mean()


def _shorten(vectors: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Returns vectors (B,C,h,w) with a length near 1 if they are much longer than `least`, (B,1,1,1)."""
    return vectors * torch.rsqrt(vectors.square().sum(1, keepdim=True) + least.square())


def reference_identity_loss(restored: torch.Tensor, references: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Returns the mean of 1 - cosine of a restored face and a reference, over its references and over the batch.

    The mean over the references is ours. The loss is ReFine's L_id. `restored` (B,d) and `references` (B,K,d) are unit
    embeddings. K can be 0. `usable`, (B,K) bool, is False if a slot is empty or shows another person. A face without
    usable references adds exactly 0 to the sum over the batch. The sum is divided by B even then (ours), so a batch
    that is split into parts has the same gradient as the whole batch.
    """
    references = references.masked_fill(~usable[..., None], 0)
    apart = 1 - (restored[:, None] * references).sum(2)
    return ((apart * usable).sum(1) / usable.sum(1).clamp(min=1)).mean()
