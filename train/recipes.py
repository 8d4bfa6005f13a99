"""Recipes: what is trained, on what, by which losses. One aligned table; two recipes compare at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.errors import BadInput
from train.models.config import ModelConfig


@dataclass(frozen=True)
class Recipe:
    """Everything about a run but its data, its seed and its end. `images` is where a run ends unless told otherwise.

    A schedule never depends on the end, so that a longer run passes through the same weights as a shorter one.
    """

    name: str
    # what is restored
    size: int  # pixels
    preset: str  # of degrade, applied at `size`
    # parts
    base: str  # "tiny": a small UNet from scratch on a space-to-depth latent
    latent_factor: int
    channels: tuple[int, ...]
    reference_channels: tuple[int, ...]
    refine_channels: int
    timestep: int
    # references
    reference_counts: tuple[int, ...]  # one is drawn for every image
    # weights of the losses
    pixel: float
    edge: float
    identity: float
    # optimisation; the clock is images seen
    images: int
    batch: int
    rate: float  # AdamW's learning rate after the warm-up
    warmup: int  # images
    decay_from: int  # images; afterwards rate * sqrt(decay_from / images), edm2's schedule
    clip: float  # largest norm of the gradient
    ema: int  # half-life of the averaged weights, images


# tiny   timestep 399: OSDFace infer.py. Counts 0, 1, 2, 4 and identity weight .1: our prototype (docs/train.md).
#        codeformer is applied at 128 px, which is harder than at 512. The rest is ours, by measurement.
# fmt: off
_TABLE = (
    #      name     size  preset        base     f   channels         references      refine  t    counts
    #      pixel  edge  identity  images  batch  rate  warmup  decay   clip  ema
    Recipe("tiny",  128,  "codeformer", "tiny",  4,  (64, 128, 192),  (48, 96, 128),  16,     399, (0, 1, 2, 4),
           1.0,   1.0,  0.1,      25_600, 16,    1e-3, 1_600,  8_000,  1.0,  800),
)
# fmt: on

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _TABLE}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises BadInput, which lists the recipes there are."""
    if name not in RECIPES:
        raise BadInput(f"There is no recipe {name}; the recipes are {', '.join(RECIPES)}.")
    return RECIPES[name]


def model_config(recipe: Recipe, embedding_dim: int) -> ModelConfig:
    """The architecture of a recipe for a dataset whose recognizer gives `embedding_dim` numbers."""
    return ModelConfig(
        base=recipe.base,
        size=recipe.size,
        latent_factor=recipe.latent_factor,
        channels=recipe.channels,
        reference_channels=recipe.reference_channels,
        refine_channels=recipe.refine_channels,
        embedding_dim=embedding_dim,
        timestep=recipe.timestep,
    )


def rate_at(recipe: Recipe, images: int) -> float:
    """The learning rate after `images` images: linear warm-up, level, then falling with the square root."""
    warm = min(1.0, (images + recipe.batch) / max(recipe.warmup, 1))
    return recipe.rate * warm * min(1.0, (recipe.decay_from / max(images, 1)) ** 0.5)


def ema_decay(recipe: Recipe, images: int) -> float:
    """How much of the averaged weights stays at a step: half-life `ema`, at most 5% of the run so far (edm2)."""
    half_life = min(recipe.ema, max(images, 1) * 0.05)
    return float(0.5 ** (recipe.batch / half_life))
