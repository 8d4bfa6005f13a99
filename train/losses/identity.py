"""Identity: the angle between the recognizer's embeddings."""

from __future__ import annotations

import torch


def identity_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine over (B,d) unit embeddings: 0 for the same direction, 1 for strangers."""
    return (1 - (restored * target).sum(1)).mean()
