"""Identity: the angle between the recognizer's embeddings."""

from __future__ import annotations

import torch


def identity_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine over (B,d) unit embeddings: 0 for the same direction, 1 for strangers."""
    return (1 - (restored * target).sum(1)).mean()


def reference_identity_loss(restored: torch.Tensor, references: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """1 - cosine of the restored face to its references (ReFine's L_id), averaged over them (ours) and the batch.

    restored (B,d) and references (B,K,d) unit embeddings; usable (B,K) bool, False where a slot is empty or shows
    another person. K may be 0. A face without usable references adds exactly 0 to the sum over the batch, which is
    divided by B all the same, so that a batch in parts has the gradient of the whole (ours).
    """
    references = references.masked_fill(~usable[..., None], 0)
    apart = 1 - (restored[:, None] * references).sum(2)
    return ((apart * usable).sum(1) / usable.sum(1).clamp(min=1)).mean()
