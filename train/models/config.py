"""Defines the architecture of a restorer. A checkpoint saves the architecture beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The refinement of base tiny turns each square of 2 x 2 pixels into one position (ours), so the refinement works at
# half the resolution.
REFINEMENT_SHRINK = 2


@dataclass(frozen=True)
class VreConfig:
    """Describes the shape of a visual representation embedder.

    train/recipes/recipes.py has OSDFace's shape, and a smaller shape for base tiny.
    """

    size: int  # The side of the embedder's input in pixels.
    channels: int  # Width of the first level.
    # The width of each level divided by `channels`. Each level except the last halves the resolution.
    multipliers: tuple[int, ...]
    codes: int  # Number of codes in the codebook.
    dim: int  # Length of a code.
    tokens: int  # Number of distinct codes in a prompt.
    doubly_normalised: bool = False  # True reproduces OSDFace's infer.py, where the embedder sees the input in -3..1.


@dataclass(frozen=True)
class ModelConfig:
    """Describes the resolved architecture of a restorer. train/recipes/recipes.py gives the source of each number."""

    base: str  # recipes.TINY or recipes.DIFFUSION.
    base_model: str  # "tiny", or the folder or hub name of the diffusion model.
    size: int  # The side of the restorer's image in pixels.
    parts: tuple[str, ...]  # The parts that condition the UNet, see recipes.PARTS.
    timestep: int  # The timestep of the first call of the UNet.
    latent_factor: int  # Base tiny: the factor f of space-to-depth, which gives 3 f^2 channels at size / f.
    channels: tuple[int, ...]  # Base tiny: UNet widths, finest level first; each level halves the resolution.
    reference_channels: tuple[int, ...]  # Widths of the reference encoder.
    refine_channels: int  # Base tiny: width of the refinement at half the resolution; 0 for no refinement.
    lora_rank: int  # Base diffusion: rank of the adapters on the frozen UNet.
    embedding_dim: int  # Length of the recognizer's embeddings, which condition the model.
    vre: VreConfig
    steps: int = 1  # number of restoration steps in training, see train/models/step_schedule.py

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """Returns the config from the JSON form of dataclasses.asdict(config). JSON has lists instead of tuples."""

        def tuples(some: dict[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in some.items()}

        return cls(**{**tuples(fields), "vre": VreConfig(**tuples(fields["vre"]))})
