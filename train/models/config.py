"""What a restorer is made of; saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """The resolved architecture of a restorer. Everything here is ours but the timestep, see `train/recipes.py`."""

    base: str  # "tiny": a small UNet from scratch on a space-to-depth latent
    size: int  # pixels, both sides
    latent_factor: int  # space-to-depth: 3 f^2 channels at size / f
    channels: tuple[int, ...]  # UNet widths, finest level first; each level halves the resolution
    reference_channels: tuple[int, ...]  # widths of the reference encoder at the UNet's last levels
    refine_channels: int  # of the full-resolution refinement; 0 for none
    embedding_dim: int  # of the recognizer whose embeddings condition the bottleneck
    timestep: int  # the one timestep at which the UNet is called
