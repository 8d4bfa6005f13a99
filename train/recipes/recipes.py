"""Defines the recipes of training as aligned tables, so that two recipes can be compared at a glance.

A row of the tables names the degradation, the losses, and the inputs of the restoration step. A base gives the numbers:
pixels, channels, batch, learning rate and schedule. `find_recipe` combines a row with a base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manifests.errors import BadInput
from train.models.config import VreConfig

VRE = "vre"  # Recipe `vre` trains OSDFace's visual representation embedder (VRE) and no restorer.
IDM = "idm"  # Recipe `idm` trains a denoiser.
TINY = "tiny"  # Base `tiny` is a small UNet on a space-to-depth latent, trained from scratch without a download.
STYLEGAN = "stylegan"  # Base `stylegan` is ReFine's generator, which has neither a UNet nor a latent.
DIFFUSION = "diffusion"  # Base `diffusion` is a model in diffusers' layout, for example Stable Diffusion 2.1-base.

# The parts of a model that can condition the restoration step. A model contains only the parts that its recipe names.
PARTS = (
    "maps",  # The UNet reads feature maps, which are pooled over all references of the image (ours).
    "warped",  # An affine map warps the references to the landmarks that a detector finds on the LQ input (ours).
    "mesh",  # As "warped", but with a mesh of landmarks; the picture around the warped face is black (ReFine).
    "embedding",  # The UNet receives the mean of the identity embeddings of the references (ReFine, Eq. 1).
    "extended",  # Self-attention also reads the keys and values of the references (InstantRestore).
    "vre",  # OSDFace's visual representation embedder computes the prompt.
    "identity",  # HonestFace's face identity encoder computes the prompt tokens p_F from the references.
    "features",  # HonestFace's facial feature extractor computes the prompt tokens p_I from LQ and references.
)

EMBEDDING_PARTS = {"embedding", "identity"}  # These parts read the identity embeddings of the references.
STYLEGAN_PARTS = ("warped", "mesh", "embedding")  # Base stylegan needs "embedding", and can have the other two.
AUGMENTS = ("flip", "each")  # The values of Recipe.augment.
DISCRIMINATORS = ("", "latent", "image", "stylegan", "dictionary")  # The values of Recipe.discriminator.
# The values of Recipe.identity_encoder: the recognizer of the dataset, or IR-SE50, which reads gray faces (ReFine).
RECOGNIZER, GRAY_IR_SE50 = "recognizer", "ir_se50"
IDENTITY_ENCODERS = (RECOGNIZER, GRAY_IR_SE50)


@dataclass(frozen=True)
class Recipe:
    """Holds all settings of a run except its data, its seed and its length.

    `images` is the default length of a run. The schedules do not depend on the length, except for the cooldown at the
    end. Two runs that differ only in their length have the same weights until the cooldown of the shorter run.
    """

    name: str
    base: str  # TINY, DIFFUSION or STYLEGAN.
    # Images:
    size: int  # The side of the images in pixels.
    preset: str  # The name of the degradation preset, which is applied at `size`.
    # Maps the names of further presets to the share of the images that they degrade. The names "mild" and "clean" are
    # explained in train/data/sampling.py.
    mixture: dict[str, float]
    # The presets that are not built in, by name. Each has the keys of a preset file (degrade/preset_files.py).
    presets: dict[str, dict[str, Any]]
    # A target with fine detail is used this number of times in an epoch. If the number is above 1, a target without
    # fine detail gets no clean or mild inputs (train/data/sampling.py).
    fine_repeats: int
    gray_share: float  # The share of the images whose input and target are gray; references keep their colours.
    # Model:
    parts: tuple[str, ...]  # Names from PARTS; recipe VRE has none, because it trains the embedder itself.
    timestep: int  # The timestep of the UNet; in a denoiser, the highest timestep.
    denoise: bool  # Whether the model is a denoiser, see train/models/timesteps/denoise.py.
    latent_factor: int  # Base tiny: the factor of space-to-depth.
    channels: tuple[int, ...]  # Base tiny: the number of channels of each UNet level, finest level first.
    reference_channels: tuple[int, ...]  # The number of channels of each level of the reference encoder.
    refine_channels: int  # Base tiny: the number of channels of the refinement; 0 for no refinement.
    lora_rank: int  # Base diffusion: the rank of the adapters of the frozen UNet; their alpha is the same number.
    vre: VreConfig
    # Base stylegan and discriminator stylegan: the largest number of channels of a level. In the base, this number is
    # also the length of a style.
    channel_limit: int
    # References:
    reference_counts: tuple[int, ...]  # The number of references of each image is drawn from these numbers.
    wrong_share: float  # The share of the images that get references of another person.
    augment: str  # "flip" flips target and references together; "each" also augments each reference on its own.
    # One of IDENTITY_ENCODERS. It embeds the faces for the identity losses, and the references for the model.
    identity_encoder: str
    # In the identity losses, one random map moves, turns, scales and mirrors the restored face and its target. The
    # number sets how far (train/data/sampling.py); 0 for no map.
    identity_jitter: float
    losses: dict[str, float]  # Maps each loss to its weight (train/fit/objective.py). Other losses are not computed.
    # After `late_from` images, the weight of each loss in `late_factors` is multiplied by its factor.
    late_factors: dict[str, float]
    late_from: int
    # Whether the losses in OF_PIXELS ignore detail that an enlarged target cannot have (train/losses/resolution.py).
    limit_resolution: bool
    # What the discriminator judges: "latent" for latents and prompts, "image" for patches of restored images,
    # "stylegan" for whole restored images, "dictionary" for the reconstructions of recipe vre, "" for no discriminator.
    discriminator: str
    # Discriminator latent: if this number is not 0, the latents get noise for a random timestep from 0 to this number
    # minus 1.
    diffused_timesteps: int
    # Discriminator stylegan: the weight of R1, the squared gradient of the logits of true faces; 0 for no R1. R1 is
    # computed at every step whose number, counted from 0, is a multiple of `r1_every`.
    r1: float
    r1_every: int
    freeze_hq: bool  # Recipe vre: whether the HQ autoencoder is frozen as soon as the association starts.
    # Optimisation. The schedules count the images used in training.
    images: int
    batch: int
    rate: float  # The learning rate after the warm-up.
    decoder_share: float  # Base stylegan with --start: the share of the learning rate for StyleGAN2's decoder.
    beta1: float  # AdamW's first beta, the momentum of the model.
    weight_decay: float  # AdamW's weight decay; 0 gives Adam.
    warmup: int  # The number of images over which the learning rate rises from 0 to `rate`.
    # After this number of images, the learning rate is multiplied by sqrt(decay_from / images) (edm2); 0 for never.
    decay_from: int
    drop_every: int  # After every `drop_every` images, the learning rate is multiplied by DROP (ReFine); 0 for never.
    cooldown: int  # The number of images at the end over which the learning rate falls to 0, see `compute_rate`.
    clip: float  # The largest allowed norm of the gradient; 0 for no limit.
    ema: int  # The half-life of the moving average of the weights, in images.


# The sources of the numbers follow, one paragraph for each recipe.
#
# Recipe tiny takes the timestep 399 from OSDFace's infer.py. The reference counts 0, 1, 2, 4 and the identity weight .1
# are ours. The preset codeformer is applied at 256 px, which is harder than at 512 px. We chose the other numbers of
# recipe tiny by measurement (docs/train.md, What was tried).
#
# Recipe vre follows stage 1 of OSDFace, which trains an HQ dictionary, an LQ dictionary and their association. The
# epochs of recipe vre and the weight 1 of `association` are from OSDFace's GitHub issue 11. We have not seen OSDFace's
# other losses, so we take them from re-implementations by others. One of them (ManaswiYadamreddy/CRAFT) freezes the HQ
# autoencoder during the association, and so do we. CRAFT's L1 loss has the weight 1 for images in -1..1. Our
# `reconstruction` is for images in 0..1, so its weight is 2. CRAFT's perceptual loss has the weight 1 and compares
# features of VGG19. We use LPIPS instead (ours). The weight of `gan` is .8 in CRAFT, after a warm-up that our training
# does not have, and .01 in another report. We use .01.
#
# Recipe osdface takes the timestep 399, the VRE prompt, the LoRA rank 16 and its losses (MSE, EA-DISTS, identity, GAN)
# from OSDFace's infer.py and from a figure of its authors. We have not seen OSDFace's own formulas, weights and
# degradation ranges. The weights .1 (identity) and .01 (GAN) are from a re-implementation by others. In two
# re-implementations, the latents that the discriminator sees have noise for a random timestep. The preset osediff-face
# is our choice.
#
# Recipe honestface takes its parts and losses from a figure of HonestFace's authors. We have not seen HonestFace's
# base, timestep, weights and degradation, so we use the values of OSDFace.
#
# Recipe refine follows the release of ReFine (JianWang-CMU/RefineFIR, train.py): the generator, one reference, flips,
# the degradation, the losses and their weights, the discriminator with R1, Adam with its rates and its betas, the batch
# and the length. Two things are ours: the moving average of the network's weights (`ema`), and the landmarks of the
# mesh. The timestep has no effect on the base stylegan.
#
# Recipe refine-small is recipe refine for a laptop. The numbers that differ from recipe refine are ours.
#
# Recipe refine-unet takes the idea of its losses from the ReFine paper. We wrote this recipe before the release of
# ReFine. Recipe refine-unet has a one-step UNet instead of ReFine's generator, and up to four references instead of
# one. The weights, the timestep, the base and the preset `severe` are ours.
#
# Recipe instant takes the timestep 249 from InstantRestore's inference/test.py. The reference counts 1 to 4 and the
# weights LPIPS 5, MS-SSIM 1, identity 1 and GAN .5 are from the final configuration of InstantRestore. The reference
# count 0 of recipe instant is ours. InstantRestore's landmark-attention loss is left out. Its landmark extractor is not
# part of the released code, as the authors' README says.
#
# Recipe idm trains a conditional denoiser without references. From the abstract of IDM (arXiv 2307.08996), we know that
# a denoiser refines the face iteratively. Every choice and every number of recipe idm is ours. The timestep 999 is the
# highest timestep of Stable Diffusion's schedule.

# fmt: off
_RECIPES = {
    #               preset            parts                              t    counts        wrong augm.
    "tiny":         ("codeformer",     ("maps", "embedding", "extended"), 399, (0, 1, 2, 4),    0.2, "flip"),
    "vre":          ("osediff-face",   (),                                399, (0,),            0.0, "flip"),
    "osdface":      ("osediff-face",   ("vre",),                          399, (0,),            0.0, "flip"),
    "honestface":   ("osediff-face",   ("vre", "identity", "features"),   399, (0, 1, 2, 4),    0.0, "each"),
    "refine":       ("refine",         ("mesh", "embedding"),             399, (1,),            0.0, "flip"),
    "refine-small": ("refine",         ("mesh", "embedding"),             399, (1,),            0.0, "flip"),
    "refine-unet":  ("severe",         ("maps", "warped", "embedding"),   399, (0, 1, 2, 4),    0.1, "each"),
    "instant":      ("instantrestore", ("extended",),                     249, (0, 1, 2, 3, 4), 0.0, "each"),
    "idm":          ("codeformer",     (),                                999, (0,),            0.0, "flip"),
}
_DISCRIMINATORS = {
    "vre":          "dictionary",
    "osdface":      "latent",
    "honestface":   "latent",
    "refine":       "stylegan",
    "refine-small": "stylegan",
    "refine-unet":  "image",
    "instant":      "image",
}
_LOSSES: dict[str, dict[str, float]] = {
    "tiny":         {"pixel": 2.5, "edge": 2.5, "detail": 5.0, "identity": 0.1},
    "vre":          {"reconstruction": 2.0, "reconstruction_lpips": 1.0, "codebook": 1.0, "association": 1.0,
                     "gan": 0.01},
    "osdface":      {"mse": 1.0, "ea_dists": 1.0, "identity": 0.1, "gan": 0.01},
    "honestface":   {"mse": 1.0, "ea_dists": 1.0, "identity": 0.1, "face_alignment": 1.0, "gan": 0.01},
    "refine":       {"spatial_min": 10.0, "cycle": 20.0, "reference_identity": 1.0, "gan": 1.0},
    "refine-small": {"spatial_min": 10.0, "cycle": 20.0, "reference_identity": 1.0, "gan": 1.0},
    "refine-unet":  {"spatial_min": 1.0, "cycle": 1.0, "reference_identity": 0.1, "gan": 0.01},
    "instant":      {"lpips": 5.0, "ms_ssim": 1.0, "identity": 1.0, "gan": 0.5},
    "idm":          {"pixel": 1.0, "edge": 1.0},
}
# `_BASES` has the image size, the numbers of channels and the schedule of each base. The numbers of base tiny are ours.
# For the diffusion base, the size 512 px, the LoRA rank 16 and the VRE are from OSDFace, and the learning rate 1e-4 is
# from a re-implementation of OSDFace. The reference channels, the batch, the length and the schedule of the diffusion
# base are ours.
_BASES = {
    #           size f  channels        references      refine lora images   batch rate warmup decay   cool   clip ema
    TINY:      (256, 8, (64, 128, 192), (48, 96, 128),  32,    0,  22_400,  8,   1e-3, 400,   8_000,   3_200, 1.0, 800),
    DIFFUSION: (512, 8, (),             (64, 128, 256), 0,     16, 200_000, 4,   1e-4, 2_000, 100_000, 0,   1.0, 4_000),
}
_VRES = {
    #                    size  ch  multipliers         codes dim  tokens
    TINY:      VreConfig(128,  32, (1, 2, 2, 4),       256,  128, 77),
    DIFFUSION: VreConfig(512,  64, (1, 2, 2, 2, 4, 8), 1024, 512, 77),
}
# The recipes on base stylegan. The numbers of refine are ReFine's, except the last two columns (ours). ReFine trains
# 800,000 steps of 4 images, and its rate drops every 300,000 steps.
_STYLEGANS = {
    #                size limit encoder       images     batch rate  drop every cooldown ema
    "refine":       (256, 512, GRAY_IR_SE50, 3_200_000, 4,    2e-3, 1_200_000, 0,       4_000),
    "refine-small": (128, 64,  RECOGNIZER,   4_000,     4,    2e-3, 0,         600,     400),
}
# fmt: on

# The discriminator of recipe osdface sees all timesteps of Stable Diffusion, as in a re-implementation by others.
# Another re-implementation (ManaswiYadamreddy/CRAFT) uses only timesteps below 500, to keep its training stable.
_DIFFUSED_TIMESTEPS = {"osdface": 1000}
BETA1, WEIGHT_DECAY = 0.9, 0.01  # The first beta (ours), and the weight decay, which is torch's default for AdamW.
REFINE_BETA1 = 0.5  # ReFine's first beta; ReFine has no weight decay.
R1, R1_EVERY = 10.0, 16  # ReFine's weight of R1, and its number of steps between two computations of R1.
DECODER_SHARE = 0.2  # ReFine divides the learning rate of the pretrained decoder by 5.
# Maps a recipe to its `late_factors` (ours, docs/train.md, What was tried).
_LATE_FACTORS: dict[str, dict[str, float]] = {
    "tiny": {"identity": 3.0},
}
LATE_FROM = 12_800  # The value of `late_from` for recipes with `late_factors` (ours).
# Maps a recipe to its `mixture` on base tiny (ours). A restorer that was trained only on strong degradations makes a
# clear face worse.
_MIXTURES: dict[str, dict[str, float]] = {
    "tiny": {"clean": 0.15, "mild": 0.3, "severe": 0.15},
}
# The value of `fine_repeats` for recipe tiny (ours). Most of our targets have no fine detail.
FINE_REPEATS = 4
GRAY_SHARE = 0.1  # the value of `gray_share` for recipe tiny (ours)

RECIPES = tuple(_RECIPES)
STYLEGAN_RECIPES = tuple(_STYLEGANS)  # these recipes run only on base stylegan, and all others do not run on it


def find_recipe(name: str, base: str | None = None) -> Recipe:
    """Returns the recipe with the given name for a base.

    The recipes in STYLEGAN_RECIPES run on STYLEGAN, and need no `base`. All other recipes run on TINY or DIFFUSION.
    Without `base`, recipe `tiny` runs on TINY. Raises BadInput if no recipe has this name, or if the recipe does not
    run on the base. Raises BadInput also if `base` is None and the recipe needs a base.
    """
    if name not in _RECIPES:
        raise BadInput(
            f"There is no recipe {name}; the recipes are {', '.join(RECIPES)}. Give a recipe, a .toml file, or the "
            "folder of a run."
        )
    if name in _STYLEGANS and base not in (None, STYLEGAN):
        raise BadInput(
            f"Recipe {name} trains ReFine's generator, which needs no base: leave --base-model out. Recipe refine-unet "
            "runs on a base."
        )
    if name not in _STYLEGANS and base == STYLEGAN:
        raise BadInput(f"Recipe {name} does not run on the base stylegan: take {' or '.join(STYLEGAN_RECIPES)}.")
    if base is None and name not in (TINY, *_STYLEGANS):
        raise BadInput(
            f"Recipe {name} needs a base: give --base-model FOLDER (Stable Diffusion 2.1-base in diffusers' layout), "
            "or --base-model tiny to try the recipe on a laptop."
        )
    base = STYLEGAN if name in _STYLEGANS else base or TINY
    preset, parts, timestep, counts, wrong, augment = _RECIPES[name]
    return Recipe(
        name=name,
        base=base,
        preset=preset,
        mixture=dict(_MIXTURES.get(name, {}) if base == TINY else {}),
        presets={},
        fine_repeats=FINE_REPEATS if name == TINY else 1,
        gray_share=GRAY_SHARE if name == TINY else 0.0,
        parts=parts,
        timestep=timestep,
        denoise=name == IDM,
        vre=_VRES[TINY if base == STYLEGAN else base],
        reference_counts=counts,
        identity_jitter=0.0,
        wrong_share=wrong,
        augment=augment,
        losses=dict(_LOSSES[name]),
        late_factors=dict(_LATE_FACTORS.get(name, {})),
        late_from=LATE_FROM if name in _LATE_FACTORS else 0,
        limit_resolution=name == TINY,
        discriminator=_DISCRIMINATORS.get(name, ""),
        freeze_hq=name == VRE,
        diffused_timesteps=_DIFFUSED_TIMESTEPS.get(name, 0),
        **(_find_stylegan_sizes(name) if base == STYLEGAN else _find_unet_sizes(base)),
    )


def _find_unet_sizes(base: str) -> dict[str, Any]:
    """Returns the fields of Recipe whose values depend on the base. `base` is TINY or DIFFUSION."""
    size, factor, channels, references, refine, rank, images, batch, rate, warmup, decay, cooldown, clip, ema = _BASES[
        base
    ]
    return {
        "size": size,
        "latent_factor": factor,
        "channels": channels,
        "reference_channels": references,
        "refine_channels": refine,
        "lora_rank": rank,
        "channel_limit": 0,
        "r1": 0.0,
        "r1_every": 1,
        "identity_encoder": RECOGNIZER,
        "images": images,
        "batch": batch,
        "rate": rate,
        "decoder_share": 1.0,
        "beta1": BETA1,
        "weight_decay": WEIGHT_DECAY,
        "warmup": warmup,
        "decay_from": decay,
        "drop_every": 0,
        "cooldown": cooldown,
        "clip": clip,
        "ema": ema,
    }


def _find_stylegan_sizes(name: str) -> dict[str, Any]:
    """Returns the same fields as `_find_unet_sizes`, with the values of the recipe `name`, which is on base
    stylegan."""
    size, limit, encoder, images, batch, rate, drop_every, cooldown, ema = _STYLEGANS[name]
    return {
        "size": size,
        "latent_factor": 1,
        "channels": (),
        "reference_channels": (),
        "refine_channels": 0,
        "lora_rank": 0,
        "channel_limit": limit,
        "r1": R1,
        "r1_every": R1_EVERY,
        "identity_encoder": encoder,
        "images": images,
        "batch": batch,
        "rate": rate,
        "decoder_share": DECODER_SHARE,
        "beta1": REFINE_BETA1,
        "weight_decay": 0.0,
        "warmup": 0,
        "decay_from": 0,
        "drop_every": drop_every,
        "cooldown": cooldown,
        "clip": 0.0,
        "ema": ema,
    }
