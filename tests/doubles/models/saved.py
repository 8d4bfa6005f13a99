"""Writes checkpoints with random weights."""

from dataclasses import replace
from pathlib import Path

import torch

from tests.doubles import curation as doubles
from tests.doubles.training import small
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION

DIM = 3  # The length of an embedding of the doubles.


def save_restorer(folder: Path, recipe: str, base: str = "tiny") -> Path:
    """Writes a checkpoint with random weights and without layers of zeros, and returns its folder."""
    config = build_model_config(small(recipe, base if base == "tiny" else DIFFUSION), DIM, base)
    if base != "tiny":
        config = replace(config, reference_channels=config.reference_channels[:2])
    double = doubles.models("double")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        facts = {"recipe": recipe, "recognizer": {"spec": "double", "sha256": double.recognizer_sha256()}}
        model = Restorer(config, facts)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    return folder
