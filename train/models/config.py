"""Defines the architecture of a restorer. A checkpoint saves the architecture beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manifests.errors import BadInput

# The refinement of base tiny works at half the resolution: it turns each square of 2 x 2 pixels into one position
# (ours).
REFINEMENT_SHRINK = 2
STYLEGAN_SIZES = (64, 128, 256, 512)  # Possible sides of base stylegan's image in pixels (ours); the release has 256.
SMALLEST_MAP = 4  # The side of base stylegan's smallest feature map in pixels.
# The parts that make the prompt of the UNet. recipes.PARTS explains the parts.
PROMPT_PARTS = {"vre", "identity", "features"}
# Base stylegan: a level of `size` px has multiplier * STYLEGAN_WIDTH / size channels, and at most `limit` channels.
STYLEGAN_WIDTH = 16384

MOST_STEPS = 50  # A denoiser takes at most this number (ours) of steps.
MOST_FACES = 1024  # A restorer restores at most this number (ours) of faces in one batch.
# The number types of a restorer. With bf16, torch's autocast decides which operations use bfloat16.
PRECISIONS = ("fp32", "bf16")


def check_precision(precision: str | None) -> None:
    """Raises BadInput if `precision` is neither None nor one of PRECISIONS."""
    if precision not in (None, *PRECISIONS):
        raise BadInput(f"--precision {precision} is unknown: give {' or '.join(PRECISIONS)}.")


def check_steps(steps: int, denoise: bool = True) -> None:
    """Raises BadInput if `steps` is not in 1..MOST_STEPS, or if it is above 1 and the restorer is not a denoiser."""
    if not 1 <= steps <= MOST_STEPS:
        raise BadInput(f"--steps {steps} is out of range: give 1 to {MOST_STEPS}.")
    if steps > 1 and not denoise:
        raise BadInput(
            f"--steps {steps} needs a denoiser, and this restorer restores in one step: leave --steps out, or train a "
            "denoiser with `likeness train --recipe idm`."
        )


@dataclass(frozen=True)
class VreConfig:
    """Describes the shape of a visual representation embedder.

    train/recipes/recipes.py has OSDFace's shape, and a smaller shape for base tiny.
    """

    size: int  # The side of the embedder's input in pixels.
    channels: int  # The number of channels of the first level.
    # Each level has one multiplier, and the number of its channels is `channels` times its multiplier. Every level
    # except the last halves the resolution.
    multipliers: tuple[int, ...]
    codes: int  # The number of codes in the codebook.
    dim: int  # The length of a code.
    tokens: int  # The number of distinct codes in a prompt.
    # Whether the embedder's input is in -3..1 instead of -1..1, as in OSDFace's infer.py.
    doubly_normalised: bool = False


@dataclass(frozen=True)
class StyleganConfig:
    """Describes the shape of ReFine's generator and of its discriminator.

    The default values are the numbers of ReFineFIR's release. A laptop needs a smaller `limit`, for example 64 (ours).
    Raises BadInput if a number is out of range.
    """

    size: int = 256  # The side of the image in pixels.
    multiplier: int = 2  # Multiplies the number of channels of each level (see STYLEGAN_WIDTH).
    limit: int = 512  # The largest number of channels of a level, and the length of a style.
    references: int = 1  # The number of warped references in the input of the encoder.
    identity: int = 512  # The length of the identity embedding.

    def __post_init__(self) -> None:
        if self.size not in STYLEGAN_SIZES:
            raise BadInput(f"The size {self.size} is not possible: give {', '.join(map(str, STYLEGAN_SIZES))}.")
        if min(self.multiplier, self.limit, self.references, self.identity) < 1:
            raise BadInput(
                "The multiplier, the limit, the number of references and the length of the embedding must be 1 or more."
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Returns the sides of the levels in pixels, smallest first: 4, 8, ..., `size`."""
        return tuple(2**power for power in range(2, self.size.bit_length()))

    @property
    def styles(self) -> int:
        """Returns the number of styles, two for each level: 14 at 256 px."""
        return 2 * len(self.sizes)

    @property
    def inputs(self) -> int:
        """Returns the number of channels of the encoder's input: the LQ image and the warped references."""
        return 3 + 3 * self.references

    def channels(self, size: int) -> int:
        """Returns the number of channels of the level with maps of `size` px."""
        return max(1, min(self.limit, self.multiplier * STYLEGAN_WIDTH // size))


REFINEFIR = StyleganConfig()  # ReFineFIR's release.


@dataclass(frozen=True)
class IrSeShape:
    """Describes the shape of the identity encoder IR-SE50. The default values are the numbers of IR-SE50."""

    widths: tuple[int, ...] = (64, 128, 256, 512)  # Number of channels of each stage.
    units: tuple[int, ...] = (3, 4, 14, 3)  # Number of units of each stage; the first unit halves the side of the map.
    squeeze: int = 16  # The squeeze of a unit divides its number of channels by this number.

    @property
    def dim(self) -> int:
        """Returns the length of an embedding."""
        return self.widths[-1]


IR_SE50 = IrSeShape()


@dataclass(frozen=True)
class ModelConfig:
    """Describes the resolved architecture of a restorer. train/recipes/recipes.py gives the source of each number."""

    base: str  # recipes.TINY, recipes.DIFFUSION or recipes.STYLEGAN.
    base_model: str  # "tiny", "stylegan", or the folder or hub name of the diffusion model.
    size: int  # The side of the restorer's image in pixels.
    parts: tuple[str, ...]  # The parts that condition the UNet, see recipes.PARTS.
    timestep: int  # The timestep of the UNet; in a denoiser, the highest timestep.
    latent_factor: int  # Base tiny: the factor f of space-to-depth; a latent has 3 f^2 channels and the side size / f.
    channels: tuple[int, ...]  # Base tiny: the number of channels of each UNet level, finest level first.
    reference_channels: tuple[int, ...]  # The number of channels of each level of the reference encoder.
    refine_channels: int  # Base tiny: the number of channels of the refinement; 0 for no refinement.
    lora_rank: int  # Base diffusion: the rank of the adapters of the frozen UNet.
    embedding_dim: int  # The length of the references' identity embeddings.
    vre: VreConfig
    denoise: bool = False  # Whether the restorer is a denoiser, see train/models/timesteps/denoise.py.
    stylegan: StyleganConfig | None = None  # Base stylegan: the shape of the generator.
    # The shape of the identity encoder that embeds the references. None means that the dataset's recognizer embeds the
    # references.
    identity_encoder: IrSeShape | None = None
    # All bases except stylegan: the largest number of references. None means no limit.
    reference_limit: int | None = None

    @property
    def most_references(self) -> int | None:
        """Returns the largest number of references that the restorer reads, or None if there is no limit."""
        return self.reference_limit if self.stylegan is None else self.stylegan.references

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """Returns the config for the JSON form of `dataclasses.asdict(config)`, which has lists instead of tuples."""

        def tuples(some: dict[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in some.items()}

        stylegan, encoder = fields.get("stylegan"), fields.get("identity_encoder")
        nested = {
            "vre": VreConfig(**tuples(fields["vre"])),
            "stylegan": None if stylegan is None else StyleganConfig(**stylegan),
            "identity_encoder": None if encoder is None else IrSeShape(**tuples(encoder)),
        }
        return cls(**{**tuples(fields), **nested})
