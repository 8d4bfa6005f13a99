"""What a restorer is made of; saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class VreConfig:
    """The shape of a visual representation embedder; train/recipes.py holds OSDFace's and a small one."""

    size: int  # pixels, both sides
    channels: int  # of the first level
    multipliers: tuple[int, ...]  # of `channels`, by level; each level but the last halves the resolution
    codes: int  # in the codebook
    dim: int  # of a code
    tokens: int  # distinct codes that make a prompt
    doubly_normalised: bool = False  # reproduces OSDFace's infer.py, whose embedder sees the input in -3..1


@dataclass(frozen=True)
class ModelConfig:
    """The resolved architecture of a restorer; train/recipes.py says where its numbers come from."""

    base: str  # recipes.TINY or recipes.DIFFUSION
    base_model: str  # "tiny", or the folder or hub name of the diffusion model
    size: int  # pixels, both sides
    parts: tuple[str, ...]  # what conditions the UNet, see recipes.PARTS
    timestep: int  # at which the UNet is called first
    latent_factor: int  # tiny: space-to-depth, 3 f^2 channels at size / f
    channels: tuple[int, ...]  # tiny: UNet widths, finest level first; each level halves the resolution
    reference_channels: tuple[int, ...]  # widths of the reference encoder
    refine_channels: int  # tiny: of the full-resolution refinement; 0 for none
    lora_rank: int  # diffusion: of the adapters on the frozen UNet
    embedding_dim: int  # of the recognizer whose embeddings condition the model
    vre: VreConfig
    steps: int = 1  # that it was trained for, see train/models/steps.py

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """The inverse of dataclasses.asdict after a journey through JSON, which turns tuples into lists."""

        def tuples(some: dict[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in some.items()}

        return cls(**{**tuples(fields), "vre": VreConfig(**tuples(fields["vre"]))})
