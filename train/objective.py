"""STAND-IN until branch `losses` is merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.losses.edge import edge_loss
from train.losses.identity import identity_loss
from train.losses.pixel import pixel_loss


def check_weights(recipe: Any, folder: Path | None) -> None:
    pass


class Objective:
    def __init__(self, recipe: Any, size: int, recognizer: Any, weights: Path | None = None) -> None:
        self.recipe, self.recognizer = recipe, recognizer

    def __call__(self, batch: Any, restored: Any) -> dict[str, torch.Tensor]:
        terms = {}
        for name in self.recipe.losses:
            if name in ("pixel", "mse"):
                terms[name] = pixel_loss(restored.image, batch["target"])
            elif name == "edge":
                terms[name] = edge_loss(restored.image, batch["target"])
            elif name == "identity":
                with torch.no_grad():
                    truth = self.recognizer(batch["target"])
                terms[name] = identity_loss(self.recognizer(restored.image), truth)
        return terms


def build_discriminator(recipe: Any, latent_channels: int, prompt_dim: int) -> nn.Module | None:
    return (
        nn.Sequential(nn.Conv2d(latent_channels, 8, 1), nn.SiLU(), nn.Conv2d(8, 1, 1)) if recipe.discriminator else None
    )


def generator_term(discriminator: nn.Module, batch: Any, restored: Any) -> torch.Tensor:
    return -discriminator(restored.latent).mean()


def discriminator_loss(discriminator: nn.Module, batch: Any, restored: Any, true: torch.Tensor) -> torch.Tensor:
    return torch.relu(1 - discriminator(true)).mean() + torch.relu(1 + discriminator(restored.latent)).mean()
