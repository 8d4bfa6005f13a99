"""Recipes: what is trained, on what, by which losses. Aligned tables; two recipes compare at a glance.

A recipe says what conditions the one step and what it is trained by; a base says how large everything is. `find_recipe`
joins a row of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from manifests.errors import BadInput
from train.models.config import ModelConfig, VreConfig

VRE = "vre"  # the recipe that trains no restorer
TINY = "tiny"  # the base that needs no download: a small UNet from scratch on a space-to-depth latent
DIFFUSION = "diffusion"  # a folder or hub name in diffusers' layout: Stable Diffusion 2.1-base and its kin

# What can condition the one step. A part that a recipe does not name does not exist in its model.
PARTS = (
    "maps",  # the references' feature maps, pooled over the set, join the UNet's levels (ours)
    "warped",  # the references are warped to landmarks found on the LQ input before anything sees them (ReFine)
    "embedding",  # the mean of the references' identity embeddings (ReFine, Eq. 1)
    "extended",  # self-attention extended to the references' keys and values (InstantRestore)
    "vre",  # the prompt of OSDFace's visual representation embedder
    "identity",  # HonestFace's identity embedder: tokens from references, and from references and LQ
)


@dataclass(frozen=True)
class Recipe:
    """Everything about a run but its data, its seed and its end. `images` is where a run ends unless told otherwise.

    A schedule never depends on the end, so that a longer run passes through the same weights as a shorter one.
    """

    name: str
    base: str  # TINY or DIFFUSION
    # what is restored
    size: int  # pixels
    preset: str  # of degrade, applied at `size`
    mild_share: float  # share of the images that are degraded by draws.MILD instead
    # what conditions the one step
    parts: tuple[str, ...]  # of PARTS; VRE, which trains the embedder itself, has none
    timestep: int  # of the first step
    steps: int  # a restoration may take up to so many, see train/models/steps.py
    latent_factor: int  # tiny: space-to-depth
    channels: tuple[int, ...]  # tiny: the UNet's widths
    reference_channels: tuple[int, ...]  # the reference encoder's widths
    refine_channels: int  # tiny: the refinement at full resolution
    lora_rank: int  # diffusion: of the adapters on the frozen UNet, alpha = rank
    vre: VreConfig
    # references
    reference_counts: tuple[int, ...]  # one is drawn for every image
    wrong_share: float  # share of the images that are shown references of another person
    augment: str  # "flip": target and references alike; "each": also colour, affine, perspective of each reference
    # losses: weight by name, see train/fit/objective.py; a name that is not there is not computed
    losses: dict[str, float]
    discriminator: str  # "": none; "latent": sees the restored latent and the prompt; "image"
    # optimisation; the clock is images seen
    images: int
    batch: int
    rate: float  # AdamW's learning rate after the warm-up
    warmup: int  # images
    decay_from: int  # images; afterwards rate * sqrt(decay_from / images), edm2's schedule
    clip: float  # largest norm of the gradient
    ema: int  # half-life of the averaged weights, images


# tiny        timestep 399: OSDFace infer.py. Counts 0, 1, 2, 4 and identity weight .1: our prototype (docs/train.md).
#             codeformer is applied at 128 px, which is harder than at 512. The rest is ours, by measurement.
# vre         OSDFace's stage 1: HQ dictionary, LQ dictionary, association (OSDFace#11: epochs, association weight 1).
# osdface     t 399, VRE prompt, LoRA 16, MSE + EA-DISTS + identity + GAN: infer.py and the paper's figure. Weights .1
#             and .01 are a third party's; degradation ranges were not seen by us: osediff-face is our choice.
# honestface  parts and losses: the paper's figure. Base, timestep, weights, degradation not seen by us; OSDFace's.
# refine      losses: the paper; one reference there, up to four here (ours). Weights, timestep and base are ours, the
#             GAN and its StyleGAN2 decoder are replaced by the one-step UNet. `severe` is ours.
# instant     t 249 (inference/test.py), counts 1 to 4, LPIPS 5, MS-SSIM 1, identity 1, GAN .5 (its final config): its
#             landmark-attention loss is left out, since its landmark extractor was not released; count 0 is ours.
# idm         a conditional denoiser without references that refines in a few steps: the idea is the abstract's (arXiv
#             2307.08996), every number is ours. The first step's noise holds the LQ face, and DDIM carries it on.
# fmt: off
_RECIPES = {
    #             preset            parts                              t    steps counts        wrong augm.  discr.
    "tiny":       ("codeformer",     ("maps", "embedding", "extended"), 399, 1, (0, 1, 2, 4),    0.0, "flip", ""),
    "vre":        ("osediff-face",   (),                                399, 1, (0,),            0.0, "flip", ""),
    "osdface":    ("osediff-face",   ("vre",),                          399, 1, (0,),            0.0, "flip", "latent"),
    "honestface": ("osediff-face",   ("vre", "identity"),               399, 1, (0, 1, 2, 4),    0.0, "each", "latent"),
    "refine":     ("severe",         ("maps", "warped", "embedding"),   399, 1, (0, 1, 2, 4),    0.1, "each", "image"),
    "instant":    ("instantrestore", ("extended",),                     249, 1, (0, 1, 2, 3, 4), 0.0, "each", "image"),
    "idm":        ("codeformer",     (),                                399, 4, (0,),            0.0, "flip", ""),
}
_LOSSES: dict[str, dict[str, float]] = {
    "tiny":       {"pixel": 1.0, "edge": 1.0, "identity": 0.1},
    "vre":        {"reconstruction": 1.0, "codebook": 1.0, "association": 1.0},
    "osdface":    {"mse": 1.0, "ea_dists": 1.0, "identity": 0.1, "gan": 0.01},
    "honestface": {"mse": 1.0, "ea_dists": 1.0, "identity": 0.1, "face_alignment": 1.0, "gan": 0.01},
    "refine":     {"spatial_min": 1.0, "cycle": 1.0, "reference_identity": 0.1, "gan": 0.01},
    "instant":    {"lpips": 5.0, "ms_ssim": 1.0, "identity": 1.0, "gan": 0.5},
    "idm":        {"pixel": 1.0, "edge": 1.0},
}
# How large, by base. tiny: ours. diffusion: 512 px, LoRA 16 and the VRE are OSDFace's; AdamW 1e-4 is a third party's
# re-implementation; reference widths, batch, length and schedule are ours.
_BASES = {
    #           size f  channels        references      refine lora  images   batch rate  warmup  decay    clip ema
    TINY:      (128, 4, (64, 128, 192), (48, 96, 128),  16,    0,    25_600,  16,   1e-3, 1_600,  8_000,   1.0, 800),
    DIFFUSION: (512, 8, (),             (64, 128, 256), 0,     16,   200_000, 4,    1e-4, 2_000,  100_000, 1.0, 4_000),
}
_VRES = {
    #                    size  ch  multipliers         codes dim  tokens
    TINY:      VreConfig(128,  32, (1, 2, 2, 4),       256,  128, 77),
    DIFFUSION: VreConfig(512,  64, (1, 2, 2, 2, 4, 8), 1024, 512, 77),
}
# fmt: on

RECIPES = tuple(_RECIPES)


def find_recipe(name: str, base: str | None = None) -> Recipe:
    """The recipe of that name on a base, TINY or DIFFUSION; `tiny` without one is on TINY.

    Raises BadInput, which lists the recipes there are, and where a recipe needs a base to be named.
    """
    if name not in _RECIPES:
        raise BadInput(f"There is no recipe {name}; the recipes are {', '.join(RECIPES)}.")
    if base is None and name != TINY:
        raise BadInput(
            f"Recipe {name} needs a base: say --base-model FOLDER (Stable Diffusion 2.1-base in diffusers' layout), or "
            "--base-model tiny to try it on a laptop."
        )
    base = base or TINY
    preset, parts, timestep, steps, counts, wrong, augment, discriminator = _RECIPES[name]
    size, factor, channels, references, refine, rank, images, batch, rate, warmup, decay, clip, ema = _BASES[base]
    return Recipe(
        name=name,
        base=base,
        size=size,
        preset=preset,
        mild_share=0.0,  # `likeness iterate` alone has another
        parts=parts,
        timestep=timestep,
        steps=steps,
        latent_factor=factor,
        channels=channels,
        reference_channels=references,
        refine_channels=refine,
        lora_rank=rank,
        vre=_VRES[base],
        reference_counts=counts,
        wrong_share=wrong,
        augment=augment,
        losses=dict(_LOSSES[name]),
        discriminator=discriminator,
        images=images,
        batch=batch,
        rate=rate,
        warmup=warmup,
        decay_from=decay,
        clip=clip,
        ema=ema,
    )


def build_model_config(recipe: Recipe, embedding_dim: int, base_model: str = TINY) -> ModelConfig:
    """The architecture of a recipe for a dataset whose recognizer gives `embedding_dim` numbers."""
    return ModelConfig(
        base=recipe.base,
        base_model=base_model,
        size=recipe.size,
        parts=recipe.parts,
        timestep=recipe.timestep,
        latent_factor=recipe.latent_factor,
        channels=recipe.channels,
        reference_channels=recipe.reference_channels,
        refine_channels=recipe.refine_channels,
        lora_rank=recipe.lora_rank,
        embedding_dim=embedding_dim,
        vre=recipe.vre,
        steps=recipe.steps,
    )


def compute_rate(recipe: Recipe, images: int) -> float:
    """The learning rate after `images` images: linear warm-up, level, then falling with the square root."""
    warm = min(1.0, (images + recipe.batch) / max(recipe.warmup, 1))
    return recipe.rate * warm * min(1.0, (recipe.decay_from / max(images, 1)) ** 0.5)


def compute_ema_decay(recipe: Recipe, images: int) -> float:
    """How much of the averaged weights stays at a step: half-life `ema`, at most 5% of the run so far (edm2)."""
    half_life = min(recipe.ema, max(images, 1) * 0.05)
    return float(0.5 ** (recipe.batch / half_life))
