"""Builds the model, the losses, the discriminator and the optimizers of a run.

Training runs on one CPU, on one GPU, or on several GPUs under `accelerate launch`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs
from torch import nn

from manifests.errors import LikenessError
from train.fit.adversary import build_discriminator
from train.fit.distributed import join_processes
from train.fit.ema import Average, find_trained
from train.fit.objective import Objective
from train.fit.settings import Settings
from train.fit.threads import start_threads
from train.losses.names import ADVERSARIAL
from train.models.bases.stylegan.discriminator import StyleganDiscriminator
from train.models.bases.target_latents import TargetLatents
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.discriminator import FaceDiscriminator
from train.models.identity.identity_encoder import IdentityEncoder
from train.models.identity.recognizer import Recognizer, load_recognizer
from train.models.released.ir_se50 import find_ir_se50, load_ir_se50
from train.models.released.stylegan2 import FILE as STYLEGAN2
from train.models.released.stylegan2 import load_stylegan2
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config, encodes_targets, find_encoder_shape
from train.recipes.recipes import TINY, VRE, Recipe

# The names of parameters of StyleGAN2's decoder begin with DECODER, and the names of ReFine's fusers with FUSER.
DECODER = "base.generator.decoder."
FUSER = f"{DECODER}fuser"
# The second beta of the AdamW of the model, and of the AdamW of the discriminator. The number is ReFine's. For other
# recipes than ReFine's, the number is ours.
BETA2 = 0.99
# The first beta of the discriminator's AdamW. The number is ReFine's. For other recipes than ReFine's, the number is
# ours. The discriminator has less momentum than most models, because the restorer changes during training.
DISCRIMINATOR_BETA1 = 0.5
# The numbers of two options of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Engine:
    """Holds a model in training, with its losses, its optimizers and its averaged weights."""

    accelerator: Accelerator
    recipe: Recipe  # the recipe without the losses that are turned off
    objective: Objective
    recognizer: Recognizer | IdentityEncoder | None  # computes the embeddings of the identity losses
    encoder: IdentityEncoder | None  # embeds the references in place of the recognizer, if the recipe uses IR-SE50
    model: Restorer  # the model that is saved and that restores the samples
    stepped: (
        nn.Module
    )  # `model`, wrapped by accelerate: runs in the run's precision, and averages the gradients over all processes
    average: Average
    optimizer: torch.optim.Optimizer
    discriminator: nn.Module | None
    discriminator_stepped: nn.Module | None
    discriminator_optimizer: torch.optim.Optimizer | None
    compiled: bool
    threads: ThreadPoolExecutor | None = None  # computes the halves of each batch, or None: train/fit/threads.py
    latents: TargetLatents | None = None  # None if no step encodes targets with the VAE of a diffusion base

    @property
    def device(self) -> torch.device:
        return self.accelerator.device


def build(
    recipe: Recipe,
    embedding_dim: int,
    seed: int,
    settings: Settings,
    precision: str,
    recognizer: tuple[Path, dict[str, Any]] | None,
) -> Engine:
    """Returns a new engine. The same `seed` gives the same weights in every process.

    `recipe` is the recipe without the losses that are turned off in this run. `precision` is fp32 or bf16. `recognizer`
    contains the path of the recognizer's ONNX file and the facts about the recognizer. `recognizer` is None if no loss
    needs the recognizer. Raises BadInput if a loss or the base cannot be loaded. Raises ModelUnavailable if the
    recognizer cannot be loaded.
    """
    join_processes()
    AcceleratorState._reset_state()  # an earlier run in this process can have used another precision
    threads = start_threads(recipe, settings, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision={"fp32": "no", "bf16": "bf16"}[precision],
        # If the images of a process have no references, the layers that encode references get no gradient in this
        # process. By default, DDP raises an error for layers without gradients.
        # Threads share the cache of autocast, and the end of one thread's call would empty the cache of the other.
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            AutocastKwargs(cache_enabled=threads is None),
        ],
    )
    device = accelerator.device
    network: Recognizer | IdentityEncoder | None = None
    if device.type == "cpu":
        _keep_freed_memory()
    if recognizer is not None:
        network = load_recognizer(recognizer[0], recognizer[1], recipe.size, precision).to(device)
    encoder, encoder_shape = None, find_encoder_shape(recipe)
    if encoder_shape is not None:
        network = encoder = load_ir_se50(find_ir_se50(settings.weights), encoder_shape).to(device)
    objective = Objective(recipe, recipe.size, network, settings.weights, precision).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(recipe, embedding_dim, settings)
        discriminator = None
        if recipe.discriminator and ADVERSARIAL in recipe.losses:
            latent, prompt = (model.base.latent_channels, model.base.prompt_dim) if recipe.name != VRE else (0, 0)
            discriminator = build_discriminator(recipe, latent, prompt)
        if settings.start is not None:
            _load_start(settings.start, model, discriminator)
    if isinstance(model, Restorer) and model.identity_encoder is not None:
        model.identity_encoder = encoder
    model = model.to(device).train()
    if recipe.base == TINY:  # With bf16 on two busy cores, channels_last shortened a step from 1.02 s to .88 s.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _adamw(model, recipe, recipe.beta1, 1.0 if settings.start is None else recipe.decoder_share)
    average = Average(model)
    if settings.compile:
        model.compile()
    discriminator_stepped, discriminator_optimizer = None, None
    if discriminator is not None:
        discriminator = discriminator.to(device).train()
        discriminator_optimizer = _adamw(discriminator, recipe, DISCRIMINATOR_BETA1)
        discriminator_stepped = accelerator.prepare_model(discriminator)
    return Engine(
        accelerator=accelerator,
        recipe=recipe,
        objective=objective,
        recognizer=network,
        encoder=encoder,
        model=model,
        stepped=accelerator.prepare_model(model),
        average=average,
        optimizer=optimizer,
        discriminator=discriminator,
        discriminator_stepped=discriminator_stepped,
        discriminator_optimizer=discriminator_optimizer,
        compiled=settings.compile,
        threads=threads,
        latents=TargetLatents(model.base.encode) if encodes_targets(recipe) else None,
    )


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory until this process ends. Other C libraries are left as they are.

    By default, glibc takes the memory of each large tensor from the system and later returns this memory. The system
    fills memory with zeros whenever it gives memory to glibc. With this setting, the training of recipe tiny
    processed 9.9 instead of 8.4 images/s in our measurement (one thread, batch 16, no identity loss, AMD EPYC).
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)


def _new_model(recipe: Recipe, embedding_dim: int, settings: Settings) -> Restorer:
    config = build_model_config(recipe, embedding_dim, settings.base_model)
    if recipe.name == VRE:
        from train.models.prompts.dictionary import Dictionary

        # The engine calls, saves and averages a Dictionary in the same way as a Restorer.
        return Dictionary(config, freeze_hq=recipe.freeze_hq)  # type: ignore[return-value]
    model = Restorer(config)
    if settings.keep_activations:
        model.base.keep_activations()
    if settings.vre is not None and model.vre is not None:
        model.vre.load_dictionary(find_newest_checkpoint(settings.vre))
    return model


def _load_start(folder: Path, model: Restorer, discriminator: nn.Module | None) -> None:
    """Loads StyleGAN2's weights in `folder` into the decoder, and into a face discriminator."""
    generator = model.base.generator
    network = discriminator.network if isinstance(discriminator, FaceDiscriminator) else None
    load_stylegan2(folder / STYLEGAN2, generator, network or StyleganDiscriminator(generator.shape))


def _adamw(module: nn.Module, recipe: Recipe, beta1: float, decoder_share: float = 1.0) -> torch.optim.Optimizer:
    """Returns AdamW for the trained parameters of a module. Without weight decay, AdamW is Adam.

    The entry `share` of a group of parameters multiplies the rate. StyleGAN2's decoder has the share `decoder_share`.
    The fusers of the decoder have the share 1, because StyleGAN2 has no fusers.
    """
    trained = find_trained(module)
    decoder = [name for name in trained if name.startswith(DECODER) and not name.startswith(FUSER)]
    if decoder_share == 1:
        decoder = []
    groups = [{"params": [p for name, p in trained.items() if name not in set(decoder)], "share": 1.0}]
    if decoder:
        groups.append({"params": [trained[name] for name in decoder], "share": decoder_share})
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(beta1, BETA2), weight_decay=recipe.weight_decay)


@contextmanager
def compile_failures(engine: Engine) -> Iterator[None]:
    """Turns an error of torch.compile into a LikenessError. torch.compile compiles at the first call of the model."""
    try:
        yield
    except Exception as error:
        if not engine.compiled or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else type(error).__name__
        raise LikenessError(f"torch.compile cannot compile this model here ({why}): leave --compile out.") from error
