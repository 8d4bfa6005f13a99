"""Makes restorers whose changes a test can see in the picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import train.evaluation.evaluator
import train.restore.restorers.face_restorer
from tests.doubles import curation as doubles
from train.models.config import ModelConfig
from train.models.io import EncodedReferences, Restoration
from train.models.references import place_in_slots
from train.models.restorer import Restorer
from train.recipes.recipes import find_recipe
from train.restore.decisions.harm import HarmLimits

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
        self.seen: list[int] = []  # The number of references of each face.
        self.batches: list[int] = []  # The number of faces of each batch.
        self.encoded = 0  # The number of references that were encoded.

    def encode_references(self, pictures: torch.Tensor) -> EncodedReferences:
        self.encoded += len(pictures)
        return EncodedReferences(maps=(pictures,))

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        encoded: EncodedReferences | None = None,
    ) -> Restoration:
        references = fill_slots(references, present, encoded)
        assert lq.shape[1:] == (3, SIZE, SIZE) and references.shape[2:] == (3, SIZE, SIZE)
        assert references.shape[1] == present.shape[1] == embeddings.shape[1]
        self.seen += present.sum(1).tolist()
        self.batches.append(len(lq))
        self.references = references
        out = lq.clone()
        out[:, :, 15:23, 12:20] = 0
        out[:, 1, 15:23, 12:20] = torch.where(present.any(1), 1.0, 0.5)[:, None, None]
        return Restoration(out, out, None)


class Copying(Marking):
    """Returns the input of a face without references, and otherwise the mean of the references."""

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        encoded: EncodedReferences | None = None,
    ) -> Restoration:
        references = fill_slots(references, present, encoded)
        self.seen += present.sum(1).tolist()
        self.batches.append(len(lq))
        rows = [
            own[filled].mean(0) if filled.any() else one
            for one, own, filled in zip(lq, references, present, strict=True)
        ]
        return Restoration(torch.stack(rows), lq, None)


def fill_slots(references: torch.Tensor, present: torch.Tensor, encoded: EncodedReferences | None) -> torch.Tensor:
    """Returns the references (B,K,3,S,S). If `encoded` is not None, the references are in `encoded`."""
    if encoded is None:
        return references
    return place_in_slots(encoded.maps[0], present, present.flatten().nonzero()[:, 0])


def find_green(image: np.ndarray) -> np.ndarray:
    """Returns where an image has the green of `Marking`, bool (H, W)."""
    return (image[..., 1] > 100) & (image[..., 0] < 60) & (image[..., 2] < 60)


def use_in_evaluation(monkeypatch: pytest.MonkeyPatch, model: torch.nn.Module) -> None:
    """Lets every run of an evaluation have one checkpoint with `model`, and lets all face models be the double."""
    monkeypatch.setattr(Restorer, "from_pretrained", classmethod(lambda cls, folder, base_model=None: model))
    monkeypatch.setattr(train.evaluation.evaluator, "find_newest_checkpoint", lambda run: run / "checkpoint-00000016")
    monkeypatch.setattr(train.restore.restorers.face_restorer, "load_faces", doubles.models)
    monkeypatch.setattr(train.evaluation.evaluator, "load_faces", doubles.models)
