"""Holds a restorer for `restore`, and loads the face models with which the restorer was trained.

This file does not import torch, so that restorers of ONNX files run without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from manifests.errors import BadInput
from train.models.config import ModelConfig
from train.restore.references.reference_photos import References


@dataclass(frozen=True)
class FaceRestorer:
    """Holds a restorer. `restore` uses restorers of torch and of ONNX files through this class."""

    config: ModelConfig
    facts: Mapping[str, Any]  # See train/models/restorer.py.
    seed: int  # The seed of the noise, which only a denoiser and `instantrestore:` draw.
    # Maps B crops, each uint8 (S, S, 3), and the references of each crop to the restored crops, float32 (B, S, S, 3)
    # in 0..255, not rounded. The crops can have different numbers of references.
    restore_crops: Callable[[Sequence[np.ndarray], Sequence[References]], np.ndarray]
    # Returns the references with the embeddings that the restorer reads.
    embed_references: Callable[[References], References]
    precision: str = "fp32"  # One of PRECISIONS.
    # Returns a batch size for which the memory is probably large enough.
    find_batch_size: Callable[[], int] = lambda: 1
    device: str = "cpu"  # cpu or cuda


def check_seed(seed: int | None, draws_noise: bool) -> None:
    """Raises BadInput if the user gave a seed and the restorer draws no noise."""
    if seed is not None and not draws_noise:
        raise BadInput(f"--seed {seed} has no effect, because this restorer draws no noise: leave --seed out.")


def needs_reference(facts: Mapping[str, Any]) -> bool:
    """Returns whether the restorer cannot restore a face without a reference (ReFineFIR, InstantRestore)."""
    return bool(facts.get("needs_reference"))


def load_restorer_faces(facts: Mapping[str, Any], spec: str | None, device: str = "cpu") -> FaceModels:
    """Loads the face models with which a restorer was trained. `facts` are the facts of the restorer.

    `spec` is a value of --faces, which replaces the recorded value if the files were moved. Released weights record no
    recognizer, so they work with all face models. `device` is as in `load_faces`. Raises BadInput if the recognizer is
    not the recorded recognizer.
    """
    recorded = facts.get("recognizer")
    if recorded is None:
        return load_faces(spec or "auto", device=device)
    models = load_faces(spec or recorded["spec"], device=device)
    if models.recognizer_sha256() != recorded["sha256"]:
        raise BadInput(
            f"This restorer was trained with the recognizer of {recorded['spec']}, but {models.spec} contains a "
            "different recognizer: give --faces with the folder of the recognizer that the training used."
        )
    return models
