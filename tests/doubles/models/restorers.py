"""Makes restorers whose changes a test can see in the picture."""

from __future__ import annotations

import math

import numpy as np
import torch

from tests.doubles import curation as doubles
from train.models.config import ModelConfig
from train.models.io import Restoration
from train.recipes.recipes import find_recipe
from train.restore.harm import HarmLimits

SIZE = 32

# With these limits, `restore` keeps every result.
NO_LIMITS = HarmLimits(math.inf, -math.inf, math.inf, -math.inf, -math.inf)


class Marking(torch.nn.Module):
    """Paints the middle of every face green: bright with references, and dark without references.

    The green area is far from the edge of the face, where paste.py matches the colours of the face to the photo.
    """

    def __init__(self, *parts: str) -> None:
        super().__init__()
        self.config = ModelConfig(
            "tiny", "tiny", SIZE, parts, 399, 4, (8, 8, 8), (8, 8, 8), 0, 0, 3, find_recipe("tiny").vre
        )
        double = doubles.models("double")
        self.facts = {"recognizer": {"spec": "double", "sha256": double.recognizer_sha256()}}
        self.identity_encoder = None
        self.base_sha256, self.steps, self.seed = None, 1, 0
        self.seen: list[int] = []

    def forward(
        self, lq: torch.Tensor, references: torch.Tensor, present: torch.Tensor, embeddings: torch.Tensor
    ) -> Restoration:
        assert lq.shape[1:] == (3, SIZE, SIZE) and references.shape[2:] == (3, SIZE, SIZE)
        assert references.shape[1] == present.shape[1] == embeddings.shape[1]
        self.seen.append(references.shape[1])
        self.references = references
        out = lq.clone()
        out[:, :, 15:23, 12:20] = 0
        out[:, 1, 15:23, 12:20] = 1.0 if references.shape[1] else 0.5
        return Restoration(out, out, None)


class Copying(Marking):
    """Returns the input if there are no references, and otherwise the mean of the references."""

    def forward(
        self, lq: torch.Tensor, references: torch.Tensor, present: torch.Tensor, embeddings: torch.Tensor
    ) -> Restoration:
        self.seen.append(references.shape[1])
        return Restoration(references.mean(1) if references.shape[1] else lq, lq, None)


def find_green(image: np.ndarray) -> np.ndarray:
    """Returns where an image has the green of `Marking`, bool (H, W)."""
    return (image[..., 1] > 100) & (image[..., 0] < 60) & (image[..., 2] < 60)
