"""Computes Q-Align with pyiqa, from a model that is already in the cache of the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch

from manifests.errors import BadInput
from train.losses.backbones import explain_wrong_file

MODEL = "q-future/one-align"  # the model that pyiqa 0.1.16 loads for Q-Align: 15 GB


def explain_missing(weights: Path | None) -> str | None:
    """Returns a sentence that says why Q-Align cannot be computed, or None if it can be computed. `weights` is not
    read."""
    if importlib.util.find_spec("pyiqa") is None:
        return "pyiqa is not installed: pip install 'likeness[iqa]'."
    if find_file(weights) is None:
        return f"The model {MODEL} is missing: download its 15 GB with `hf download {MODEL}`."
    return None


def find_file(weights: Path | None) -> Path | None:
    """Returns the path of the model's config.json in the cache, or None if the file is missing. The name of the file's
    folder is the revision of the model."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(MODEL, "config.json")
    return Path(found) if isinstance(found, str) else None


def load_qalign(weights: Path | None) -> Callable[[torch.Tensor], list[float]]:
    """Returns the function that maps images (B, 3, S, S) in 0..1 to one value of Q-Align, from 1 to 5, for each image.

    Downloads nothing. Raises BadInput if pyiqa or the model is missing, or if the model cannot be loaded.
    """
    if (reason := explain_missing(weights)) is not None:
        raise BadInput(f"qalign cannot be computed: {reason}")
    from huggingface_hub import constants

    with explain_wrong_file(f"The model {MODEL} cannot be loaded", f"download it again with `hf download {MODEL}`"):
        from pyiqa.models.inference_model import InferenceModel

        with patch.object(constants, "HF_HUB_OFFLINE", True):
            metric = InferenceModel("qalign", device="cuda" if torch.cuda.is_available() else "cpu")

    def score(images: torch.Tensor) -> list[float]:
        # pyiqa's Q-Align takes one image at a time
        return [float(metric(image[None]).reshape(-1)[0]) for image in images]

    return score
