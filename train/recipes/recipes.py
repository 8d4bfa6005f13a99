"""Defines the recipes of training as aligned tables, so that two recipes can be compared at a glance.

A recipe names the degradation, the losses, and the inputs of the restoration step. A base sets the sizes: pixels,
channels, batch, learning rate and schedule. `find_recipe` combines a recipe with a base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manifests.errors import BadInput
from train.models.config import VreConfig

VRE = "vre"  # Recipe `vre` trains OSDFace's visual representation embedder (VRE) and no restorer.
IDM = "idm"  # Recipe `idm` trains a denoiser.
TINY = "tiny"  # Base `tiny` is a small UNet on a space-to-depth latent, trained from scratch without a download.
STYLEGAN = "stylegan"  # Base `stylegan` is ReFine's generator, which restores without a UNet and without a latent.
DIFFUSION = "diffusion"  # Base `diffusion` is a model in diffusers' layout, for example Stable Diffusion 2.1-base.

# The parts of a model that can condition the restoration step. A model contains only the parts that its recipe names.
PARTS = (
    "maps",  # The UNet reads feature maps, which are pooled over all references of the image (ours).
    "warped",  # An affine map warps the references to the landmarks that a detector finds on the LQ input (ours).
    "mesh",  # A mesh of landmarks warps the references, in place of the affine map, and the rest is black (ReFine).
    "embedding",  # The UNet receives the mean of the identity embeddings of the references (ReFine, Eq. 1).
    "extended",  # Self-attention also reads the keys and values of the references (InstantRestore).
    "vre",  # OSDFace's visual representation embedder computes the prompt.
    "identity",  # HonestFace's face identity encoder makes the prompt tokens p_F from the references.
    "features",  # HonestFace's facial feature extractor makes the prompt tokens p_I from LQ and references.
)

EMBEDDING_PARTS = {"embedding", "identity"}  # These parts read the identity embeddings of the references.
STYLEGAN_PARTS = ("warped", "mesh", "embedding")  # Base stylegan needs the part embedding, and can have the other two.
AUGMENTS = ("flip", "each")  # The values of Recipe.augment.
DISCRIMINATORS = ("", "latent", "image", "stylegan", "dictionary")  # The values of Recipe.discriminator.
# The values of Recipe.identity_encoder: the recognizer of the dataset, or IR-SE50 on the gray face (ReFine).
RECOGNIZER, GRAY_IR_SE50 = "recognizer", "ir_se50"
IDENTITY_ENCODERS = (RECOGNIZER, GRAY_IR_SE50)


@dataclass(frozen=True)
class Recipe:
    """Holds all settings of a run except its data, its seed and its length.

    `images` is the default length of a run. Before the cooldown, the schedules do not depend on the length. Two runs
    that differ only in their length have the same weights until the cooldown of the shorter run.
    """

    name: str
    base: str  # TINY, DIFFUSION or STYLEGAN.
    # --- images ---
    size: int  # pixels
    preset: str  # The name of a degradation preset, which is applied at `size`.
    # Maps the name of another preset to the share of the images that this other preset degrades. The name can be "mild"
    # or "clean", see train/data/sampling.py.
    mixture: dict[str, float]
    # presets that are not built in, by name; the values have the keys of a preset file (degrade/preset_files.py)
    presets: dict[str, dict[str, Any]]
    # A target with fine detail is used this number of times in an epoch. If the number is above 1, a target without
    # fine detail gets no clean or mild inputs (train/data/sampling.py).
    fine_repeats: int
    gray_share: float  # This share of the images has a gray input and a gray target; references keep their colours.
    # --- model ---
    parts: tuple[str, ...]  # Names from PARTS; recipe VRE has no parts, because it trains the embedder itself.
    timestep: int  # The timestep of the UNet. A denoiser: the highest timestep.
    denoise: bool  # True trains a denoiser, which draws noise, see train/models/timesteps/denoise.py.
    latent_factor: int  # Base tiny: the factor of space-to-depth.
    channels: tuple[int, ...]  # Base tiny: the widths of the UNet.
    reference_channels: tuple[int, ...]  # The widths of the reference encoder.
    refine_channels: int  # Base tiny: the width of the refinement at half the resolution.
    lora_rank: int  # Base diffusion: the rank of the adapters on the frozen UNet; alpha is equal to the rank.
    vre: VreConfig
    # Base stylegan and discriminator stylegan: the largest number of channels of a level. The base also has styles of
    # this length.
    channel_limit: int
    # --- references ---
    reference_counts: tuple[int, ...]  # The number of references of each image is drawn from these numbers.
    wrong_share: float  # This share of the images gets references of another person.
    augment: str  # "flip" flips target and references together, and "each" also augments each reference.
    # One of IDENTITY_ENCODERS. It computes the embeddings of the identity losses, and the embeddings of references that
    # the model reads.
    identity_encoder: str
    # the weight of each loss by name (see train/fit/objective.py); a loss without a weight is not computed
    losses: dict[str, float]
    # After `late_from` images, the weight of each of these losses is multiplied by its factor.
    late_factors: dict[str, float]
    late_from: int  # images
    # True: the losses in OF_PIXELS compare only the detail that a target holds (train/losses/resolution.py)
    limit_resolution: bool
    # "" for no discriminator, "latent" for restored latents and prompts, "image" for patches of restored images,
    # "stylegan" for whole restored images, or "dictionary" for the reconstructions of recipe vre
    discriminator: str
    # Discriminator latent: the discriminator sees the latents with noise for a random timestep from 0 to this number
    # minus 1. If this number is 0, the latents have no noise.
    diffused_timesteps: int
    # Discriminator stylegan: the weight of R1, the squared gradient of the logits of true faces; 0 for no R1. R1 is
    # computed at every step whose number, counted from 0, is a multiple of `r1_every`.
    r1: float
    r1_every: int  # steps
    freeze_hq: bool  # Recipe vre: True freezes the HQ autoencoder as soon as the association starts.
    # --- optimisation: the schedules count the images used in training ---
    images: int
    batch: int
    rate: float  # The learning rate after the warm-up.
    decoder_share: float  # Base stylegan: with --start, the rate of StyleGAN2's decoder is this share of the rate.
    beta1: float  # AdamW's first beta, the momentum of the model.
    weight_decay: float  # AdamW's weight decay; 0 gives Adam.
    warmup: int  # images
    # After this number of images, the rate is multiplied by sqrt(decay_from / images) (edm2); 0 for never.
    decay_from: int
    drop_every: int  # After every `drop_every` images, the rate is multiplied by DROP (ReFine); 0 for never.
    cooldown: int  # Over this number of images at the end, the rate falls linearly to zero (compute_rate).
    clip: float  # The largest allowed norm of the gradient; 0 for no limit.
    ema: int  # The half-life of the averaged weights, in images.


# The sources of the numbers follow, one paragraph for each recipe.
#
# Recipe tiny takes the timestep 399 from OSDFace's infer.py. The reference counts 0, 1, 2, 4 and the identity weight .1
# are ours. The preset codeformer is applied at 256 px, which is harder than at 512 px. We chose the other numbers of
# recipe tiny by measurement (docs/train.md, What was tried).
#
# Recipe vre follows stage 1 of OSDFace, which trains an HQ dictionary, an LQ dictionary and their association. The
# epochs of recipe vre and its association weight 1 are from OSDFace's GitHub issue 11. The other losses are from
# re-implementations by third parties. The HQ autoencoder is frozen during the association, as in one of these
# re-implementations (ManaswiYadamreddy/CRAFT). We have not seen OSDFace's own losses. CRAFT's L1 has the weight 1 for
# images in -1..1. Our `reconstruction` is for images in 0..1, so its weight is 2. CRAFT's perceptual loss has the
# weight 1, and compares features of VGG19. LPIPS is our choice. The weight of `gan` is .8 in CRAFT and .01 in another
# account. We use .01, because .8 comes with a warm-up that our training does not have.
#
# Recipe osdface takes the timestep 399, the VRE prompt, the LoRA rank 16 and its losses (MSE, EA-DISTS, identity, GAN)
# from OSDFace's infer.py and from a figure of its authors. The loss weights .1 and .01 are from a re-implementation by
# a third party. In two re-implementations, the discriminator sees latents with noise for a random timestep. We have not
# seen OSDFace's own formulas, weights and degradation ranges. The preset osediff-face is our choice.
#
# Recipe honestface takes its parts and losses from a figure of HonestFace's authors. We have not seen HonestFace's
# base, timestep, weights and degradation, so we use the values of OSDFace.
#
# Recipe refine follows the release of ReFine (JianWang-CMU/RefineFIR, train.py): the generator, one reference, flips,
# the degradation, the losses and their weights, the discriminator with R1, Adam with its rates and its betas, the batch
# and the length. The average of the weights and the landmarks of the mesh are ours. The timestep has no effect on the
# base stylegan.
#
# Recipe refine-small is recipe refine for a laptop. All its numbers that differ from recipe refine are ours.
#
# Recipe refine-unet takes the idea of its losses from the ReFine paper. We wrote recipe refine-unet before the release
# of ReFine. ReFine uses one reference, but we use up to four (ours). The weights, the timestep, the base and the preset
# `severe` are ours. Our one-step UNet replaces ReFine's generator.
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
# The table `_BASES` sets the image size, the widths and the schedule of each base. The numbers of base tiny are ours.
# For the diffusion base, the size 512 px, the LoRA rank 16 and the VRE are from OSDFace. The AdamW rate 1e-4 is from
# a re-implementation by a third party. The reference widths, the batch, the length and the schedule of the diffusion
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
# The timesteps of the discriminator of recipe osdface: all timesteps of Stable Diffusion, as in a re-implementation by
# a third party. Another re-implementation (ManaswiYadamreddy/CRAFT) stops before 500, to keep its training stable.
_DIFFUSED_TIMESTEPS = {"osdface": 1000}
BETA1, WEIGHT_DECAY = 0.9, 0.01  # The first beta is ours, and the weight decay is torch's default for AdamW.
REFINE_BETA1 = 0.5  # ReFine's first beta. ReFine has no weight decay.
R1, R1_EVERY = 10.0, 16  # ReFine's weight of R1, and its number of steps between two computations of R1.
DECODER_SHARE = 0.2  # ReFine divides the rate of the pretrained decoder by 5.
# The factors that multiply loss weights late in a run (ours, docs/train.md, What was tried).
_LATE_FACTORS: dict[str, dict[str, float]] = {
    "tiny": {"identity": 3.0},
}
LATE_FROM = 12_800  # After this number of images, recipe `tiny` uses its factors in _LATE_FACTORS (ours).
# For each recipe, the shares of the images that get another preset than the recipe's own preset (ours). A restorer that
# was trained only on strong degradations makes a clear face worse.
_MIXTURES: dict[str, dict[str, float]] = {
    "tiny": {"clean": 0.15, "mild": 0.3, "severe": 0.15},
}
# Recipe tiny uses a target with fine detail this number of times (ours) in an epoch, because most of our targets are
# soft.
FINE_REPEATS = 4
GRAY_SHARE = 0.1  # Recipe tiny: the share of gray images (ours).

RECIPES = tuple(_RECIPES)
STYLEGAN_RECIPES = tuple(_STYLEGANS)  # Only these recipes run on base stylegan, and they run on no other base.


def find_recipe(name: str, base: str | None = None) -> Recipe:
    """Returns the recipe with the given name for a base.

    If `base` is None, the recipe `tiny` uses TINY. The recipes in STYLEGAN_RECIPES use only STYLEGAN, and every other
    recipe uses TINY or DIFFUSION. Raises BadInput if no recipe has this name, or if the recipe does not run on the
    base. Raises BadInput also if `base` is None and the recipe needs a base.
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
    """Returns the fields of Recipe that follow from the base TINY or DIFFUSION."""
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
    """Returns the fields of Recipe that follow from the table _STYLEGANS."""
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
