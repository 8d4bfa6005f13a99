"""Computes identity losses from the cosines between embeddings of the recognizer."""

from __future__ import annotations

import torch


def identity_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean of 1 - cosine over unit embeddings (B,d): 0 for equal faces, about 1 for strangers."""
    return (1 - (restored * target).sum(1)).mean()


def reference_identity_loss(restored: torch.Tensor, references: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Returns 1 - cosine of the restored face to its references, averaged over the references (ours) and the batch.

    `reference_identity` is ReFine's L_id. `restored` (B,d) and `references` (B,K,d) are unit embeddings. K may be 0.
    `usable`, (B,K) bool, is False if a slot is empty or shows another person. A face without usable references adds
    exactly 0 to the sum over the batch. The sum is always divided by B, so that a batch in parts has the same gradient
    as the whole batch (ours).
    """
    references = references.masked_fill(~usable[..., None], 0)
    apart = 1 - (restored[:, None] * references).sum(2)
    return ((apart * usable).sum(1) / usable.sum(1).clamp(min=1)).mean()
