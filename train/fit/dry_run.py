"""Describes a training without running it, for `likeness train --dry-run`.

The sentences give the configuration, the number of parameters, the memory and the speed on this machine.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manifests.runtime.snapshot_files import FACTS
from train.data import dataset as data
from train.data.augment import check_albumentations
from train.data.sampling import draw_theta
from train.data.snapshot import Snapshot, load_snapshot
from train.data.to_device import to_device
from train.fit.engine import Engine, build
from train.fit.settings import (
    Settings,
    drop_inactive_losses,
    find_recognizer,
    resolve_degrade_on,
    resolve_with_recognizer,
)
from train.fit.steps.gradient_penalty import compute_penalty_gradients, is_penalty_due
from train.fit.steps.step import compute_gradients
from train.fit.threads import THREADS
from train.losses.names import THROUGH_RECOGNIZER
from train.models.bases.target_latents import CAPACITY
from train.recipes.model_configs import find_encoder_shape
from train.recipes.recipes import DIFFUSION, RECOGNIZER, Recipe
from train.recipes.schedules import DROP
from train.recipes.training_presets import find_training_preset

UPDATES = 3  # number of timed updates (ours), which follow one update without timing
_GIB = 2**30


def describe_run(recipe: Recipe, settings: Settings) -> list[str]:
    """Returns sentences that describe the configuration, including every default."""
    losses = ", ".join(f"{name} {weight:g}" for name, weight in recipe.losses.items())
    late = ", ".join(f"{name} by {factor:g}" for name, factor in recipe.late_factors.items() if name in recipe.losses)
    counts = ", ".join(map(str, recipe.reference_counts))
    others = "".join(f" ({name} for {share:.0%} of the images)" for name, share in recipe.mixture.items())
    vre = f" VRE: {settings.vre}." if settings.vre is not None else ""
    return [
        f"Base: {settings.base_model if recipe.base == DIFFUSION else recipe.base}. Preset: {recipe.preset}{others}. "
        f"Degraded on: {resolve_degrade_on(recipe, settings)}. Parts: {', '.join(recipe.parts) or 'none'}.{vre}",
        f"Each image gets one of these numbers of references, with equal chances: {counts}. "
        f"Share of images with references of another person: {recipe.wrong_share:.0%}. "
        f"Augmentation: {recipe.augment}."
        + (
            f" A target with fine detail is used {recipe.fine_repeats} times in an epoch. The inputs of a target "
            "without fine detail are never clean or mildly degraded."
            if recipe.fine_repeats > 1
            else ""
        ),
        f"Losses: {losses}."
        + (f" After {recipe.late_from} images, these weights are multiplied: {late}." if late else "")
        + f" Discriminator: {recipe.discriminator or 'none'}."
        + (
            f" The discriminator sees latents with noise for a timestep from 0 to {recipe.diffused_timesteps - 1}."
            if recipe.diffused_timesteps
            else ""
        )
        + (f" Weight of R1: {recipe.r1:g}, every {recipe.r1_every} steps." if recipe.r1 else ""),
        f"Batch: {recipe.batch} images in {settings.accumulate} part{'s' * (settings.accumulate > 1)}. AdamW's rate: "
        + (f"rises to {recipe.rate:g} over the first {recipe.warmup} images" if recipe.warmup else f"{recipe.rate:g}")
        + (f", and falls after {recipe.decay_from} images" if recipe.decay_from else "")
        + (
            f", and falls to {DROP:.0%} of its value after every {recipe.drop_every} images"
            if recipe.drop_every
            else ""
        )
        + (f". Over the last {recipe.cooldown} images, the rate falls to zero" if recipe.cooldown else "")
        + f". AdamW's first beta: {recipe.beta1:g}. Weight decay: {recipe.weight_decay:g}. Largest norm of the "
        f"gradient: {recipe.clip or 'no limit'}. Identity encoder: {recipe.identity_encoder}. "
        f"EMA half-life: {recipe.ema} images. Timestep: {recipe.timestep}."
        + (f" Denoiser: noise for the timesteps 1 to {recipe.timestep}." if recipe.denoise else "")
        + (f" LoRA rank: {recipe.lora_rank}." if recipe.lora_rank else "")
        + (f" Largest number of channels: {recipe.channel_limit}." if recipe.channel_limit else ""),
    ]


def measure_training(source: Path, recipe: Recipe, seed: int, settings: Settings) -> list[str]:
    """Runs a few updates and returns sentences about parameters, memory and images per second. Nothing is saved.

    If `source` is a snapshot, the updates use its faces. If `source` is a dataset, the updates use random pictures and
    leave out the losses that need the recognizer. Raises BadInput and ModelUnavailable in the same cases as training.
    """
    taken = load_snapshot(source) if (source / FACTS).is_file() else None
    notice = "" if taken is None else data.check_detector(taken, recipe)
    if recipe.augment == "each":
        check_albumentations()
    facts = resolve_with_recognizer(recipe, *_recognizer_of(source, taken), settings)
    run = drop_inactive_losses(recipe, facts)
    if taken is None and recipe.identity_encoder == RECOGNIZER:
        run = replace(run, losses={n: weight for n, weight in run.losses.items() if n not in THROUGH_RECOGNIZER})
    on_gpu = torch.cuda.is_available()
    # On a CPU, a diffusion model needs minutes for a batch, so a single update of one image is timed.
    count, updates = (recipe.batch // settings.accumulate, UPDATES) if on_gpu or recipe.base != DIFFUSION else (1, 1)
    dim = taken.embeddings.shape[1] if taken is not None else _embedding_dim(source)
    recognizer = None if taken is None else find_recognizer(taken, facts)
    engine = build(run, dim, seed, settings, facts["precision"], recognizer)
    number_of_parts = 1 if engine.threads is None else THREADS
    size = count // number_of_parts
    if taken is None:
        stream = iter([make_random_batch(recipe, dim, size, seed)] * number_of_parts)
    else:
        on_device = facts["degrade_on"] == "device"
        stream = data.batches(data.TrainingFaces(taken, recipe, seed, on_device=on_device), 0, size, 0, 0, 1)
    parts = [to_device(next(stream), engine.device) for _ in range(number_of_parts)]
    for part in parts:
        part.pop("target_hash", None)  # Every update encodes the targets, as in the first epoch.

    # The first update measures the activations of one part and is not timed. The updates after the first are timed.
    activations = run_update(replace(engine, threads=None), parts[:1], 0, seed)
    if on_gpu:
        torch.cuda.synchronize()
    began = time.monotonic()
    for number in range(updates):
        run_update(engine, parts, number + 1, seed)
    if on_gpu:
        torch.cuda.synchronize()
    pace = count * updates / (time.monotonic() - began)

    used = "faces of the snapshot; the time to load and degrade the faces is not included"
    what = "random pictures" if taken is None else used
    left_out = sorted(set(recipe.losses) - set(run.losses))
    without = f". The updates did not compute these losses: {', '.join(left_out)}" if left_out else ""
    times = "one update" if updates == 1 else f"{updates} updates"
    device = torch.cuda.get_device_name() if on_gpu else "the CPU"
    return [
        *([notice] if notice else []),
        *_parameters(engine),
        _memory(engine, activations, size, recipe.batch // settings.accumulate),
        f"Speed: {pace:.2g} images/s on {device} in {facts['precision']}. The speed was measured over {times} of batch "
        f"{count} after one update that was not timed. Each update used {what}{without}.",
    ]


def run_update(engine: Engine, parts: list[data.Batch], number: int, seed: int) -> int:
    """Runs one update. Returns the size of the activations that were kept for the gradients, in bytes. The size of the
    weights is not included. If the engine has threads, the size is 0, because only this thread is watched."""
    storages: dict[int, int] = {}
    weights = {
        p.untyped_storage().data_ptr() for m in (engine.model, engine.discriminator) if m for p in m.parameters()
    }

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute_gradients(engine, parts, number, seed)
    for optimizer in filter(None, (engine.optimizer, engine.discriminator_optimizer)):
        optimizer.step()
    if engine.discriminator_optimizer is not None and is_penalty_due(engine.recipe, number * engine.recipe.batch):
        compute_penalty_gradients(engine, parts)
        engine.discriminator_optimizer.step()
    engine.average.follow(0.5)
    return sum(storages.values())


def _parameters(engine: Engine) -> list[str]:
    def count(module: nn.Module) -> tuple[int, int]:
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
        return sum(n for n, grows in sizes if grows), sum(n for n, grows in sizes if not grows)

    parts = dict(engine.model.named_children())
    if engine.discriminator is not None:
        parts["discriminator"] = engine.discriminator
    counts = {name: count(part) for name, part in parts.items()}
    rows = [f"  {name}: {grown:,} trained, {frozen:,} frozen" for name, (grown, frozen) in counts.items()]
    grown, frozen = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    return [f"Parameters: {grown:,} trained, {frozen:,} frozen.", *rows]


def _memory(engine: Engine, activations: int, count: int, batch: int) -> str:
    modules = [
        m for m in (engine.model, engine.discriminator, engine.recognizer, engine.objective) if isinstance(m, nn.Module)
    ]
    tensors = {id(tensor): tensor for module in modules for tensor in (*module.parameters(), *module.buffers())}
    weights = sum(tensor.nbytes for tensor in tensors.values())
    grown = sum(parameter.nbytes for group in engine.optimizer.param_groups for parameter in group["params"])
    discriminator = (
        engine.discriminator_optimizer.param_groups[0]["params"] if engine.discriminator_optimizer is not None else []
    )
    learned = grown + sum(parameter.nbytes for parameter in discriminator)
    shares = {
        "weights": weights,
        "gradients": learned,
        "Adam's moments": 2 * learned,
        "average": grown,
        "activations": activations * batch // count,
    }
    scaled = f", scaled from batch {count}" if count != batch else ""
    listing = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in shares.items())
    peak = f" Peak on the GPU: {torch.cuda.max_memory_allocated() / _GIB:.2f} GiB." if torch.cuda.is_available() else ""
    kept = f" The latents of targets take at most {CAPACITY / _GIB:g} GiB more." if engine.latents is not None else ""
    return (
        f"Memory for a part of {batch} images: about {sum(shares.values()) / _GIB:.2f} GiB ({listing}). The "
        f"activations are measured{scaled}. All other sizes are computed from the tensors. The memory "
        f"of the program itself, and memory that a layer needs only for a moment, are not included.{kept}{peak}"
    )


def _recognizer_of(source: Path, taken: Snapshot | None) -> tuple[dict[str, Any], bool]:
    if taken is not None:
        return taken.facts, taken.recognizer_onnx is not None
    return {"recognizer": {"spec": "of the dataset"}}, True


def _embedding_dim(dataset: Path) -> int:
    from manifests.ledger.ledger import Ledger
    from manifests.ledger.queries import read_recognizer

    with Ledger.open(Path(dataset)) as ledger:
        return int(read_recognizer(ledger).dim or 0)


def make_random_batch(recipe: Recipe, dim: int, count: int, seed: int) -> data.Batch:
    """Returns random pictures in the form of a training batch.

    Image i has `recipe.reference_counts[i % n]` references, and n is the length of `reference_counts`. Each image has
    as many reference slots as the largest value in `reference_counts`.
    """
    preset = find_training_preset(recipe.preset, recipe.presets)
    draw, slots, size = torch.Generator().manual_seed(seed), max(recipe.reference_counts), recipe.size
    shown = torch.arange(slots).expand(count, -1) < torch.tensor(
        [recipe.reference_counts[i % len(recipe.reference_counts)] for i in range(count)]
    ).view(-1, 1)
    return {
        "lq": torch.rand(count, 3, size, size, generator=draw),
        "target": torch.rand(count, 3, size, size, generator=draw),
        "references": torch.rand(count, slots, 3, size, size, generator=draw),
        "present": shown,
        "embeddings": nn.functional.normalize(torch.randn(count, slots, dim, generator=draw), dim=-1),
        "row": torch.zeros(count, dtype=torch.long),
        "right": torch.ones(count, dtype=torch.bool),
        "landmarks": torch.rand(count, 5, 2, generator=draw) * size,
        "valid": torch.ones(count, 1, size, size, dtype=torch.bool),
        "upsample": torch.ones(count),
        **({"unwarped": torch.rand(count, slots, 3, size, size, generator=draw)} if find_encoder_shape(recipe) else {}),
        "found": torch.ones(count, dtype=torch.bool),
        "warped": shown,
        "theta": [draw_theta(preset, seed, 0, str(number)) for number in range(count)],
    }
