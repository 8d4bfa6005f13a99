"""Finds the architecture of the model that a recipe trains."""

from __future__ import annotations

from train.losses.names import THROUGH_RECOGNIZER
from train.models.config import IR_SE50, IrSeShape, ModelConfig, StyleganConfig
from train.recipes.recipes import DIFFUSION, EMBEDDING_PARTS, GRAY_IR_SE50, STYLEGAN, TINY, VRE, Recipe


def build_model_config(recipe: Recipe, embedding_dim: int, base_model: str = TINY) -> ModelConfig:
    """Returns the architecture of a recipe's model. `embedding_dim` is the length of the recognizer's embeddings."""
    encoder = find_encoder_shape(recipe) if EMBEDDING_PARTS & set(recipe.parts) else None
    dim = embedding_dim if encoder is None else encoder.dim
    stylegan = None
    if recipe.base == STYLEGAN:
        references = max(1, *recipe.reference_counts)
        stylegan = StyleganConfig(recipe.size, limit=recipe.channel_limit, references=references, identity=dim)
    return ModelConfig(
        base=recipe.base,
        base_model=STYLEGAN if recipe.base == STYLEGAN else base_model,
        size=recipe.size,
        parts=recipe.parts,
        timestep=recipe.timestep,
        latent_factor=recipe.latent_factor,
        channels=recipe.channels,
        reference_channels=recipe.reference_channels,
        refine_channels=recipe.refine_channels,
        lora_rank=recipe.lora_rank,
        embedding_dim=dim,
        vre=recipe.vre,
        denoise=recipe.denoise,
        stylegan=stylegan,
        identity_encoder=encoder,
    )


def find_encoder_shape(recipe: Recipe) -> IrSeShape | None:
    """Returns the shape of IR-SE50 if a loss or a part of the recipe needs its embeddings, otherwise None."""
    reads = bool(EMBEDDING_PARTS & set(recipe.parts)) or any(name in THROUGH_RECOGNIZER for name in recipe.losses)
    return IR_SE50 if recipe.identity_encoder == GRAY_IR_SE50 and reads else None


def encodes_targets(recipe: Recipe) -> bool:
    """Returns whether a training step of the recipe encodes the targets with the frozen VAE of a diffusion base."""
    return recipe.base == DIFFUSION and recipe.name != VRE and (recipe.discriminator == "latent" or recipe.denoise)
