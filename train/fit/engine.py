"""What a run trains and is trained by, on whatever machine: one CPU, one GPU, or several under `accelerate launch`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import nn

from manifests.errors import LikenessError
from train.fit.distributed import join_processes
from train.fit.ema import Average, find_trained
from train.fit.objective import Objective, build_discriminator
from train.fit.settings import Settings
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.recognizer import Recognizer, load_recognizer
from train.models.restorer import Restorer
from train.recipes import VRE, Recipe, build_model_config

BETAS = (0.9, 0.99)  # of AdamW (ours)
DISCRIMINATOR_BETAS = (
    0.5,
    0.99,
)  # of the discriminator's: less momentum, because the model it is trained against changes (ours)
WEIGHT_DECAY = 0.01  # of both: torch's own default


@dataclass(frozen=True)
class Engine:
    """A model in training."""

    accelerator: Accelerator
    recipe: Recipe  # without the losses that are off
    objective: Objective
    recognizer: Recognizer | None
    model: Restorer  # itself: what is saved and sampled
    stepped: nn.Module  # the same as training calls it: in the run's precision, gradients shared by the processes
    average: Average
    optimizer: torch.optim.Optimizer
    discriminator: nn.Module | None
    discriminator_stepped: nn.Module | None
    discriminator_optimizer: torch.optim.Optimizer | None
    compiled: bool

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
    """Everything at its beginning, the same for the same seed on every process.

    `recipe` has only losses that are on; `precision` is fp32 or bf16, settled; `recognizer` is its ONNX file and the
    snapshot's facts of it, where a loss needs it. Raises BadInput or ModelUnavailable.
    """
    join_processes()
    AcceleratorState._reset_state()  # a second run in this process may have another precision
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision={"fp32": "no", "bf16": "bf16"}[precision],
        # without a reference in a whole share of a batch, what reads references gets no gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    device, network = accelerator.device, None
    if recognizer is not None:
        network = load_recognizer(recognizer[0], recognizer[1], recipe.size).to(device)
    objective = Objective(recipe, recipe.size, network, settings.weights).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(recipe, embedding_dim, settings)
        discriminator = None
        if recipe.discriminator:
            discriminator = build_discriminator(recipe, model.base.discriminator_channels, model.base.prompt_dim)
    model = model.to(device).train()
    optimizer = _adamw(model, recipe, BETAS)
    average = Average(model)
    if settings.compile:
        model.compile()
    discriminator_stepped, discriminator_optimizer = None, None
    if discriminator is not None:
        discriminator = discriminator.to(device).train()
        discriminator_optimizer = _adamw(discriminator, recipe, DISCRIMINATOR_BETAS)
        discriminator_stepped = accelerator.prepare_model(discriminator)
    return Engine(
        accelerator=accelerator,
        recipe=recipe,
        objective=objective,
        recognizer=network,
        model=model,
        stepped=accelerator.prepare_model(model),
        average=average,
        optimizer=optimizer,
        discriminator=discriminator,
        discriminator_stepped=discriminator_stepped,
        discriminator_optimizer=discriminator_optimizer,
        compiled=settings.compile,
    )


def _new_model(recipe: Recipe, embedding_dim: int, settings: Settings) -> Restorer:
    config = build_model_config(recipe, embedding_dim, settings.base_model)
    if recipe.name == VRE:
        from train.models.prompts.dictionary import Dictionary

        return Dictionary(config)  # type: ignore[return-value]  # it is called, saved and averaged as a Restorer is
    model = Restorer(config)
    if settings.vre is not None and model.vre is not None:
        model.vre.load_dictionary(find_newest_checkpoint(settings.vre))
    return model


def _adamw(module: nn.Module, recipe: Recipe, betas: tuple[float, float]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(find_trained(module).values(), lr=recipe.rate, betas=betas, weight_decay=WEIGHT_DECAY)


@contextmanager
def compile_failures(engine: Engine) -> Iterator[None]:
    """What torch.compile raises, which it does when the model is first called, as a sentence."""
    try:
        yield
    except Exception as error:
        if not engine.compiled or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else type(error).__name__
        raise LikenessError(f"torch.compile cannot compile this model here ({why}): leave --compile away.") from error
