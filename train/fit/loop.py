"""Runs the training loop. Schedules, samples, the log and the names of checkpoints use the number of images seen, and
not the number of steps.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from manifests.errors import BadInput
from manifests.runtime.progress import Progress
from train.data import dataset as data
from train.data.snapshot import load_snapshot
from train.data.to_device import to_device
from train.fit.checkpoints import load_checkpoint, save_checkpoint, sweep_run
from train.fit.distributed import StopVote, get_rank, get_world_size, run_on_first
from train.fit.engine import build, compile_failures
from train.fit.log.figures import UnreadFigures
from train.fit.log.logbook import Logbook
from train.fit.log.validation import VALIDATION, validate
from train.fit.settings import (
    Settings,
    check_images,
    claim_run,
    describe_restorer,
    drop_inactive_losses,
    find_recognizer,
)
from train.fit.steps.gradient_penalty import compute_penalty_gradients, is_penalty_due
from train.fit.steps.step import compute_gradients
from train.fit.threads import THREADS
from train.models.checkpoint_files import list_checkpoints
from train.recipes.recipes import Recipe
from train.recipes.schedules import compute_ema_decay, compute_rate

LOG_EVERY = 320  # images between two lines of stats.jsonl and between two reads of the figures
CHECKPOINT_EVERY = (
    3_200  # images between two checkpoints; after kill -9, training repeats at most this number of images
)
STOP_REASONS = ("", "minutes", "SIGINT", "SIGTERM")  # each process votes with the index of its reason to stop


@dataclass(frozen=True)
class Ending:
    """Describes how a call of `train` ended."""

    checkpoint: Path
    images: int
    reason: str  # Why the call ended: "complete", "minutes" or the name of the signal.
    images_per_second: float  # The mean speed of this call; 0 if the run was already complete.
    data_wait: float  # The time of waiting for data, as a share of the time of this call, 0..1.


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
    """Trains `recipe` on a snapshot folder until the model has seen `images` images.

    If `run` has a checkpoint, training resumes from the newest checkpoint. By default, `images` is the number in the
    recipe. After `minutes` minutes, or on SIGTERM or SIGINT, training saves a checkpoint and ends early. On a CPU with
    the same number of threads, an interrupted and an uninterrupted run give the same weights, bit for bit. `workers` is
    the number of processes that prepare data, and does not change the result. Under `accelerate launch` or `torchrun`
    every process trains on its share of each batch, and only the first process writes files. A run can be resumed with
    another number of processes.

    Raises BadInput if `run` belongs to another recipe, seed, snapshot or base. Raises Diverged if a loss is NaN or
    infinite. Raises LikenessError if a checkpoint cannot be written.
    """
    began, taken, end = time.monotonic(), load_snapshot(snapshot), recipe.images if images is None else images
    settings = settings or Settings()
    check_images(recipe, end)
    if minutes is not None and math.isnan(minutes):
        raise BadInput("--minutes nan is not a number: give a number of minutes.")
    if (warning := data.check_detector(taken, recipe)) and not get_rank():
        say(warning)
    faces = data.TrainingFaces(taken, recipe, seed)
    facts = run_on_first(claim_run, run, taken, recipe, seed, settings, say)
    faces.on_device = facts["degrade_on"] == "device"
    dim, precision = taken.embeddings.shape[1], facts["precision"]
    engine = build(drop_inactive_losses(recipe, facts), dim, seed, settings, precision, find_recognizer(taken, facts))
    run_on_first(sweep_run, run)
    seen = load_checkpoint(list_checkpoints(run)[-1], engine) if list_checkpoints(run) else 0
    if seen >= end:
        return Ending(list_checkpoints(run)[-1], seen, "complete", 0.0, 0.0)
    if seen and not get_rank():
        say(f"Resuming {run} at {seen} images.")

    validation_faces = data.fixed_batch(
        faces, "val" if len(taken.targets("val")) else "train", VALIDATION, max(recipe.reference_counts)
    )
    first, waited, reason = seen, 0.0, ""
    sums: dict[str, float] = {}  # The sum of each figure since the last line of the log.
    # `since` has the time, the images seen and the seconds of waiting for data at the last line of the log.
    since = time.monotonic(), seen, 0.0
    reduce = partial(engine.accelerator.reduce, reduction="mean")
    unread, votes = UnreadFigures(reduce, taken.face_ids, recipe.batch), StopVote()
    with _logbook(run, seen) as log, _stop_signals() as signals, ExitStack() as stack:
        check = partial(validate, engine=engine, faces=validation_faces, began=began)
        if not seen:
            run_on_first(check, log, seen)
        # Closing the stream ends the worker processes, also after an error that nobody handles.
        count = settings.accumulate if engine.threads is None else THREADS
        share = recipe.batch // count, workers, get_rank(), get_world_size()
        stream = stack.enter_context(closing(data.batches(faces, seen, *share)))
        started = time.monotonic()
        while not reason:
            # Load a batch in parts. The number of references differs from image to image. The workers or `to_device`
            # degrade the targets. The time of `to_device` counts as waiting for data.
            before = time.monotonic()
            loaded = [next(stream) for _ in range(count)]
            parts = [to_device(batch, engine.device) for batch in loaded]
            waited += time.monotonic() - before

            # Restore the faces, then compute the losses and the gradients of the model and of the discriminator. The
            # CPU does not wait for the device here, because no number is read from the device.
            with compile_failures(engine):
                figures = compute_gradients(engine, parts, seen, seed)
            unread.add(seen, figures, [batch["row"] for batch in loaded])

            # Update the model and the discriminator, one step each. At some steps, R1 updates the discriminator once
            # more. Then update the averaged weights.
            for optimizer in filter(None, (engine.optimizer, engine.discriminator_optimizer)):
                for group in optimizer.param_groups:
                    group["lr"] = compute_rate(recipe, seen, end) * group["share"]
                optimizer.step()
            if engine.discriminator_optimizer is not None and is_penalty_due(recipe, seen):
                compute_penalty_gradients(engine, parts)
                engine.discriminator_optimizer.step()
            engine.average.follow(compute_ema_decay(recipe, seen))
            seen += recipe.batch
            progress("train", min(seen, end), end)

            # Decide whether to stop. A signal to one process ends all processes after the same step.
            out_of_time = minutes is not None and time.monotonic() - began > minutes * 60
            wish = signals[0] if signals else "minutes" if out_of_time else ""
            reason = STOP_REASONS[votes.vote(STOP_REASONS.index(wish))]
            if seen >= end:
                reason = "complete"

            # If a line of the log or a checkpoint is due, read the figures of all steps since the last read. Reading
            # waits for the device. If a figure is NaN or infinite, reading raises Diverged, and no weights are saved.
            log_due = seen % LOG_EVERY < recipe.batch
            checkpoint_due = bool(reason) or seen % checkpoint_every < recipe.batch
            if log_due or checkpoint_due:
                for step_figures in unread.read():
                    for name, value in step_figures.items():
                        sums[name] = sums.get(name, 0.0) + value

            # Log the mean of each figure since the last line of the log.
            if log_due:
                now = time.monotonic()
                steps, spent = (seen - since[1]) / recipe.batch, max(now - since[0], 1e-9)
                means = {name: total / steps for name, total in sums.items()}
                pace = {"images_per_second": (seen - since[1]) / spent, "data_wait": (waited - since[2]) / spent}
                if log is not None:
                    log.write("train", seen, now - began, {**means, "rate": compute_rate(recipe, seen, end), **pace})
                sums, since = {}, (now, seen, waited)

            # Validate, then save a checkpoint. If the process is killed before the checkpoint is complete, the resumed
            # run repeats the validation.
            if checkpoint_due:
                engine.model.facts = describe_restorer(taken, recipe, seen)
                run_on_first(check, log, seen)
                checkpoint = run_on_first(save_checkpoint, run, seen, engine)
        votes.finish()
        spent = time.monotonic() - started
    if reason != "complete" and not get_rank():
        say(
            f"Stopped at {seen} of {end} images ({reason}): run the same command again to resume "
            f"from {checkpoint.name}."
        )
    return Ending(checkpoint, seen, reason, (seen - first) / spent, waited / spent)


@contextmanager
def _logbook(run: Path, seen: int) -> Iterator[Logbook | None]:
    """Yields the logbook of the run in the first process, and None in the other processes."""
    if get_rank():
        yield None
        return
    with Logbook(run, seen) as log:
        yield log


@contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """Yields a list. If the process receives SIGTERM or SIGINT, the name of the signal is added to the list."""
    names: list[str] = []
    # Python allows signal handlers only in the main thread. In any other thread, the list stays empty.
    if threading.current_thread() is not threading.main_thread():
        yield names
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    old = [signal.signal(kind, lambda number, _: names.append(signal.Signals(number).name)) for kind in kinds]
    try:
        yield names
    finally:
        for kind, handler in zip(kinds, old, strict=True):
            signal.signal(kind, handler)
