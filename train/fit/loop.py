"""The training loop. Images seen is the clock: of schedules, samples, logs and checkpoint names."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from degrade.sampling import make_generator
from manifests.errors import BadInput, LikenessError
from manifests.runtime.progress import Progress
from train.data import dataset as data
from train.data.snapshot import load_snapshot
from train.fit.checkpoints import load_checkpoint, save_checkpoint, sweep_run
from train.fit.distributed import gathered, get_rank, get_world_size, run_on_first
from train.fit.ema import find_trained
from train.fit.engine import Engine, build, compile_failures
from train.fit.logbook import Logbook
from train.fit.objective import discriminator_loss, generator_term
from train.fit.settings import (
    Settings,
    check_images,
    claim_run,
    describe_restorer,
    drop_inactive_losses,
    find_recognizer,
)
from train.models.checkpoint_files import list_checkpoints
from train.models.io import Restoration
from train.recipes import Recipe, compute_ema_decay, compute_rate

LOG_EVERY = 320  # images
CHECKPOINT_EVERY = 3_200  # images: the most that kill -9 can lose
GRID = 8  # validation images in samples/*.png
VALIDATION = 32  # validation images measured at a checkpoint


class Diverged(LikenessError):
    """A loss or the gradient is no longer a number."""


@dataclass(frozen=True)
class Ending:
    """How a call of `train` ended."""

    checkpoint: Path
    images: int
    reason: str  # "complete", "minutes" or the name of the signal
    images_per_second: float  # of this call, 0 where it had nothing to do
    data_wait: float  # share of the time spent waiting for data


def train(
    run: Path,
    snapshot: Path,
    recipe: Recipe,
    images: int | None = None,
    seed: int = 0,
    minutes: float | None = None,
    workers: int = 1,
    settings: Settings | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    say: Callable[[str], None] = print,
    progress: Progress = lambda *_: None,
) -> Ending:
    """Train `recipe` on the snapshot folder until `images` have been seen; RUN resumes from its newest checkpoint.

    `images` defaults to the recipe's. `minutes`, SIGTERM and SIGINT end it earlier, with a checkpoint. On a CPU with
    the same number of threads an interrupted and an uninterrupted run give the same weights, bit for bit; `workers` is
    the number of processes that prepare data and changes nothing. Under `accelerate launch` every process trains on its
    share of each batch, and the first alone writes. Raises BadInput where RUN belongs to another recipe, seed, snapshot
    or base, Diverged where a loss is not a number, LikenessError where a checkpoint cannot be written.
    """
    began, taken, end = time.monotonic(), load_snapshot(snapshot), recipe.images if images is None else images
    settings = settings or Settings()
    check_images(recipe, end)
    if minutes is not None and math.isnan(minutes):
        raise BadInput("--minutes nan: say a number of minutes.")
    if (warning := data.warping(taken, recipe)) and not get_rank():
        say(warning)
    facts = run_on_first(claim_run, run, taken, recipe, seed, settings, say)
    dim, precision = taken.embeddings.shape[1], facts["precision"]
    engine = build(drop_inactive_losses(recipe, facts), dim, seed, settings, precision, find_recognizer(taken, facts))
    run_on_first(sweep_run, run)
    seen = load_checkpoint(list_checkpoints(run)[-1], engine) if list_checkpoints(run) else 0
    if seen >= end:
        return Ending(list_checkpoints(run)[-1], seen, "complete", 0.0, 0.0)
    if seen and not get_rank():
        say(f"Resuming {run} at {seen} images.")

    faces = data.TrainingFaces(taken, recipe, seed)
    watched = data.fixed_batch(
        faces, "val" if len(taken.targets("val")) else "train", VALIDATION, max(recipe.reference_counts)
    )
    first, waited, why = seen, 0.0, ""
    sums: dict[str, float] = {}
    since = time.monotonic(), seen, 0.0
    with _logbook(run, seen) as log, _stop_signal() as asked:
        look = partial(_look, engine=engine, watched=watched, began=began)
        if not seen:
            run_on_first(look, log, seen)
        stream = data.batches(faces, seen, recipe.batch // settings.accumulate, workers, get_rank(), get_world_size())
        started = time.monotonic()
        while not why:
            # load: K differs from image to image; the workers have degraded the target already
            before = time.monotonic()
            parts = [data.to_device(next(stream), engine.device) for _ in range(settings.accumulate)]
            waited += time.monotonic() - before

            # restore, losses, gradients: of the model, then of the discriminator
            with compile_failures(engine):
                figures = learn(engine, parts, seen, seed)
            _refuse_nan(figures, seen, [taken.face_ids[row] for part in parts for row in part["row"].tolist()])

            # update: the discriminator alternates with the model, a step each
            for optimizer in filter(None, (engine.optimizer, engine.discriminator_optimizer)):
                for group in optimizer.param_groups:
                    group["lr"] = compute_rate(recipe, seen)
                optimizer.step()
            engine.average.follow(compute_ema_decay(recipe, seen))
            seen += recipe.batch

            # log, keep, and end
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
            if seen % LOG_EVERY < recipe.batch:
                now = time.monotonic()
                steps, spent = (seen - since[1]) / recipe.batch, max(now - since[0], 1e-9)
                means = {name: total / steps for name, total in sums.items()}
                pace = {"images_per_second": (seen - since[1]) / spent, "data_wait": (waited - since[2]) / spent}
                if log is not None:
                    log.write("train", seen, now - began, {**means, "rate": compute_rate(recipe, seen), **pace})
                sums, since = {}, (now, seen, waited)
            progress("train", min(seen, end), end)
            if seen >= end:
                why = "complete"
            elif asked:
                why = asked[0]
            elif minutes is not None and time.monotonic() - began > minutes * 60:
                why = "minutes"
            why = next(filter(None, gathered([why])), "")  # a signal to one process ends them all at the same step
            if why or seen % checkpoint_every < recipe.batch:
                engine.model.facts = describe_restorer(taken, recipe, seen)
                # a kill between the two is forgotten on resume, since the checkpoint comes last
                run_on_first(look, log, seen)
                kept = run_on_first(save_checkpoint, run, seen, engine)
        spent = time.monotonic() - started
    if why != "complete" and not get_rank():
        say(f"Stopped at {seen} of {end} images ({why}): the same command again resumes from {kept.name}.")
    return Ending(kept, seen, why, (seen - first) / spent, waited / spent)


def learn(engine: Engine, parts: list[data.Batch], seen: int, seed: int) -> dict[str, float]:
    """The gradients of a batch that comes in parts, clipped, ready for the optimizers.

    Answers the mean of `loss`, of each unweighted term, `gradient` (its norm before it is clipped), `discriminator` and
    `discriminator_gradient` where the recipe has one, and where it warps `no_landmarks`, the share of the inputs
    without, and `not_warped`, the share of the references that stayed as aligned; over the parts and the processes.
    """
    recipe, discriminator = engine.recipe, engine.discriminator
    sums: dict[str, torch.Tensor] = {}
    for optimizer in filter(None, (engine.optimizer, engine.discriminator_optimizer)):
        optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(parts):
        # what a model or a discriminator draws follows from the seed, the images seen and the process
        torch.manual_seed(int(make_generator(seed, "train", "step", seen, number, get_rank()).integers(2**62)))
        last = number == len(parts) - 1

        with nullcontext() if last else engine.accelerator.no_sync(engine.stepped):
            shown = [batch[name] for name in ("lq", "references", "present", "embeddings", "target")]
            restored = engine.stepped(*shown, **({"step": batch["step"]} if "step" in batch else {}))
            terms = dict(engine.objective(batch, restored))
            if discriminator is not None:
                with _fixed(discriminator):
                    terms["gan"] = generator_term(discriminator, batch, restored)
            loss = sum(
                (recipe.losses[name] * term for name, term in terms.items()), torch.zeros((), device=engine.device)
            )
            (loss / len(parts)).backward()
        found = {"loss": loss, **terms}

        if engine.discriminator_stepped is not None:
            made = Restoration(restored.image.detach(), restored.latent.detach(), _detached(restored.prompt))
            with torch.no_grad(), engine.accelerator.autocast():
                truth = engine.model.base.encode(batch["target"]).float()
            with nullcontext() if last else engine.accelerator.no_sync(engine.discriminator_stepped):
                found["discriminator"] = discriminator_loss(engine.discriminator_stepped, batch, made, truth)
                (found["discriminator"] / len(parts)).backward()
        if "found" in batch:
            found["no_landmarks"] = 1 - batch["found"].float().mean()
            unwarped = batch["present"] & ~batch["warped"]
            found["not_warped"] = unwarped.sum() / batch["present"].sum().clamp(min=1)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / len(parts)

    sums["gradient"] = _clipped(engine.optimizer, recipe.clip)
    if engine.discriminator_optimizer is not None:
        sums["discriminator_gradient"] = _clipped(engine.discriminator_optimizer, recipe.clip)
    figures = torch.stack([value.float() for value in sums.values()])
    return dict(zip(sums, engine.accelerator.reduce(figures, "mean").tolist(), strict=True))


def _clipped(optimizer: torch.optim.Optimizer, clip: float) -> torch.Tensor:
    return nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)


@contextmanager
def _fixed(module: nn.Module) -> Iterator[None]:
    """Inside it no parameter of the module gets a gradient."""
    parameters = list(find_trained(module).values())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _detached(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach()


def _refuse_nan(figures: dict[str, float], seen: int, faces: list[str]) -> None:
    broken = [name for name, value in figures.items() if name != "loss" and not math.isfinite(value)]
    if not broken:
        return
    faces = gathered(faces)

    def stop() -> None:
        raise Diverged(
            f"Training stopped after {seen} images: {', '.join(broken)} of the next batch is not a number "
            f"(faces {', '.join(face[:12] for face in faces)}). The last checkpoint stays."
        )

    run_on_first(stop)


@torch.no_grad()
def _look(log: Logbook | None, seen: int, *, engine: Engine, watched: data.Batch | None, began: float) -> None:
    """The sample grid, and the watched faces in figures: with references, without, and as they came."""
    if watched is None or log is None:
        return
    values: dict[str, list[float]] = {}
    shown: list[torch.Tensor] = []
    with engine.average.swap_in(), _judging(engine.model):
        for start in range(0, len(watched["lq"]), engine.recipe.batch):
            chosen = slice(start, start + engine.recipe.batch)
            batch = data.to_device({name: part[chosen] for name, part in watched.items()}, engine.device)
            nobody = torch.zeros_like(batch["present"])
            restored, alone = (
                engine.model(batch["lq"], batch["references"], present, batch["embeddings"]).image
                for present in (batch["present"], nobody)
            )
            for name, pictures in (("lq", batch["lq"]), ("alone", alone), ("restored", restored)):
                error = (pictures - batch["target"]).square().mean(dim=(1, 2, 3))
                values.setdefault(f"psnr_{name}", []).extend((-10 * error.clamp(min=1e-10).log10()).tolist())
                if engine.recognizer is not None:
                    cosines = (engine.recognizer(pictures) * engine.recognizer(batch["target"])).sum(1)
                    values.setdefault(f"identity_{name}", []).extend(cosines.tolist())
            shown.append(restored.cpu())
    log.write("val", seen, time.monotonic() - began, {name: sum(many) / len(many) for name, many in values.items()})
    first = data.to_device({name: watched[name][:GRID] for name in ("lq", "references", "target")}, torch.device("cpu"))
    log.grid(seen, first["lq"], first["references"], torch.cat(shown)[:GRID], first["target"])


@contextmanager
def _judging(model: nn.Module) -> Iterator[None]:
    """Inside it the model is in eval mode."""
    model.eval()
    try:
        yield
    finally:
        model.train()


@contextmanager
def _logbook(run: Path, seen: int) -> Iterator[Logbook | None]:
    """The run's logbook, which the first process alone keeps."""
    if get_rank():
        yield None
        return
    with Logbook(run, seen) as log:
        yield log


@contextmanager
def _stop_signal() -> Iterator[list[str]]:
    """A list that receives the name of SIGTERM or SIGINT; the loop then ends after its step, with a checkpoint."""
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    old = [signal.signal(kind, lambda number, _: asked.append(signal.Signals(number).name)) for kind in kinds]
    try:
        yield asked
    finally:
        for kind, handler in zip(kinds, old, strict=True):
            signal.signal(kind, handler)
