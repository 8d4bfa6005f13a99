"""The training loop. Images seen is the clock: of schedules, samples, logs and checkpoint names."""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from manifests.errors import BadInput, LikenessError
from manifests.progress import Report
from manifests.storage import write_atomically
from train import data
from train.checkpoint import checkpoints, load_checkpoint, save_checkpoint, sweep
from train.logbook import Logbook
from train.losses.edge import edge_loss
from train.losses.identity import identity_loss
from train.losses.pixel import pixel_loss
from train.models.recognizer import Recognizer, load_recognizer
from train.models.restorer import Restorer
from train.outputs import RUN_CONFIG, check_run_folder
from train.recipes import Recipe, ema_decay, model_config, rate_at
from train.snapshot import Snapshot, load_snapshot

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
    why: str  # "complete", "minutes" or the name of the signal
    images_per_second: float  # of this call, 0 where it had nothing to do
    data_wait: float  # share of the time spent waiting for data


def train(
    run: Path,
    snapshot: Path,
    recipe: Recipe,
    images: int | None = None,
    seed: int = 0,
    minutes: float | None = None,
    identity: bool = True,
    workers: int = 1,
    checkpoint_every: int = CHECKPOINT_EVERY,
    say: Callable[[str], None] = print,
    report: Report = lambda *_: None,
) -> Ending:
    """Train `recipe` on the snapshot folder until `images` have been seen; RUN resumes from its newest checkpoint.

    `images` defaults to the recipe's. `minutes`, SIGTERM and SIGINT end it earlier, with a checkpoint. On a CPU with
    the same number of threads an interrupted and an uninterrupted run give the same weights, bit for bit; `workers` is
    the number of processes that prepare data and changes nothing. `identity=False` leaves the identity loss out.
    Raises BadInput where RUN belongs to another recipe, seed or snapshot, Diverged where a loss is not a number.
    """
    began, taken, end = time.monotonic(), load_snapshot(snapshot), recipe.images if images is None else images
    if end < recipe.batch:
        raise BadInput(f"--images {end} is less than one batch of {recipe.batch}.")
    if minutes is not None and math.isnan(minutes):
        raise BadInput("--minutes nan: say a number of minutes.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = _claim(run, taken, recipe, seed, identity, say)
    recognizer = _recognizer(taken, recipe, device) if facts["identity_loss"]["on"] else None

    model = _new_restorer(recipe, taken, seed).to(device).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)
    sweep(run)
    seen = load_checkpoint(checkpoints(run)[-1], model, average, optimizer) if checkpoints(run) else 0
    if seen >= end:
        return Ending(checkpoints(run)[-1], seen, "complete", 0.0, 0.0)
    if seen:
        say(f"Resuming {run} at {seen} images.")

    faces = data.TrainingFaces(taken, recipe, seed)
    watched = data.fixed_batch(
        faces, "val" if len(taken.targets("val")) else "train", VALIDATION, max(recipe.reference_counts)
    )
    first, waited, why = seen, 0.0, ""
    sums: dict[str, float] = {}
    since = time.monotonic(), seen, 0.0
    with Logbook(run, seen) as log, _stop_signal() as asked:
        if not seen:
            _look(log, average, watched, recognizer, seen, began, device)
        stream = data.batches(faces, seen, recipe.batch, workers)
        started = time.monotonic()
        while not why:
            # load: K differs from image to image; the workers have degraded the target already
            before = time.monotonic()
            batch = data.to_device(next(stream), device)
            waited += time.monotonic() - before

            # restore: one step
            restored = model(batch["lq"], batch["references"], batch["present"], batch["embeddings"]).image

            # losses
            terms = {"pixel": pixel_loss(restored, batch["target"]), "edge": edge_loss(restored, batch["target"])}
            if recognizer is not None:
                with torch.no_grad():
                    truth = recognizer(batch["target"])
                terms["identity"] = identity_loss(recognizer(restored), truth)
            loss = sum((recipe.losses[name] * term for name, term in terms.items()), torch.zeros((), device=device))

            # update
            for group in optimizer.param_groups:
                group["lr"] = rate_at(recipe, seen)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            _refuse_nan(terms, norm, seen, [taken.face_ids[row] for row in batch["row"].tolist()])
            optimizer.step()
            _follow(average, model, ema_decay(recipe, seen))
            seen += recipe.batch

            # log, keep, and end
            for name, value in {"loss": loss, **terms, "gradient": norm}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if seen % LOG_EVERY < recipe.batch:
                now = time.monotonic()
                steps, spent = (seen - since[1]) / recipe.batch, max(now - since[0], 1e-9)
                means = {name: total / steps for name, total in sums.items()}
                pace = {"images_per_second": (seen - since[1]) / spent, "data_wait": (waited - since[2]) / spent}
                log.write("train", seen, now - began, {**means, "rate": rate_at(recipe, seen), **pace})
                sums, since = {}, (now, seen, waited)
            report("train", min(seen, end), end)
            if seen >= end:
                why = "complete"
            elif asked:
                why = asked[0]
            elif minutes is not None and time.monotonic() - began > minutes * 60:
                why = "minutes"
            if why or seen % checkpoint_every < recipe.batch:
                average.facts = _facts(taken, recipe, seen)
                # a kill between the two is forgotten on resume, since the checkpoint comes last
                _look(log, average, watched, recognizer, seen, began, device)
                kept = save_checkpoint(run, seen, model, average, optimizer)
        spent = time.monotonic() - started
    if why != "complete":
        say(f"Stopped at {seen} of {end} images ({why}): the same command again resumes from {kept.name}.")
    return Ending(kept, seen, why, (seen - first) / spent, waited / spent)


def _new_restorer(recipe: Recipe, taken: Snapshot, seed: int) -> Restorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Restorer(model_config(recipe, taken.embeddings.shape[1]), _facts(taken, recipe, 0))


def _facts(taken: Snapshot, recipe: Recipe, images: int) -> dict[str, Any]:
    """What is saved beside the weights for whoever restores with them."""
    from curate.faces.align import FFHQ_512

    return {
        "recipe": recipe.name,
        "images": images,
        "snapshot": taken.hash,
        "recognizer": taken.recognizer,
        "template": FFHQ_512.tolist(),
    }


def _claim(
    run: Path, taken: Snapshot, recipe: Recipe, seed: int, identity: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """RUN/config.json: written on the first start, compared on every other."""
    if not identity:
        loss = {"on": False, "why": "turned off by --no-identity"}
    elif "identity" not in recipe.losses:
        loss = {"on": False, "why": f"recipe {recipe.name} has none"}
    elif taken.recognizer_onnx is None:
        loss = {"on": False, "why": f"the recognizer {taken.recognizer['spec']} has no ONNX file to differentiate"}
    else:
        loss = {"on": True, "why": f"weight {recipe.losses['identity']} through {taken.recognizer['spec']}"}
    try:
        code = version("likeness")
    except PackageNotFoundError:
        code = "source"
    facts = {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "seed": seed,
        "snapshot": {name: taken.facts[name] for name in ("hash", "manifest", "counts")},
        "recognizer": taken.recognizer,
        "identity_loss": loss,
        "code_version": code,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if not loss["on"]:
        say(f"Notice: no identity loss, {loss['why']}.")
    check_run_folder(run)
    path = run / RUN_CONFIG
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        for name in ("recipe", "seed", "snapshot", "identity_loss"):
            if there.get(name) != facts[name]:
                raise BadInput(f"{run} belongs to another {name.replace('_', ' ')}: give this run another --out.")
        return there
    write_atomically(path, json.dumps(facts, indent=2, sort_keys=True).encode())
    return facts


def _recognizer(taken: Snapshot, recipe: Recipe, device: torch.device) -> Recognizer:
    onnx_file = taken.recognizer_onnx
    assert onnx_file is not None  # _claim has looked
    return load_recognizer(onnx_file, taken.recognizer, recipe.size).to(device)


@torch.no_grad()
def _follow(average: Restorer, model: Restorer, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def _refuse_nan(terms: dict[str, torch.Tensor], norm: torch.Tensor, seen: int, faces: list[str]) -> None:
    broken = [name for name, value in {**terms, "gradient": norm}.items() if not torch.isfinite(value)]
    if broken:
        raise Diverged(
            f"Training stopped after {seen} images: {', '.join(broken)} of the next batch is not a number "
            f"(faces {', '.join(face[:12] for face in faces)}). The last checkpoint stays."
        )


@torch.no_grad()
def _look(
    log: Logbook,
    average: Restorer,
    watched: data.Batch | None,
    recognizer: Recognizer | None,
    seen: int,
    began: float,
    device: torch.device,
) -> None:
    """The sample grid, and the watched faces in figures: with references, without, and as they came."""
    if watched is None:
        return
    batch = data.to_device(watched, device)
    nobody = torch.zeros_like(batch["present"])
    restored = average(batch["lq"], batch["references"], batch["present"], batch["embeddings"]).image
    alone = average(batch["lq"], batch["references"], nobody, batch["embeddings"]).image
    values: dict[str, float] = {}
    for name, pictures in (("lq", batch["lq"]), ("alone", alone), ("restored", restored)):
        error = (pictures - batch["target"]).square().mean(dim=(1, 2, 3))
        values[f"psnr_{name}"] = float((-10 * error.clamp(min=1e-10).log10()).mean())
        if recognizer is not None:
            cosines = (recognizer(pictures) * recognizer(batch["target"])).sum(1)
            values[f"identity_{name}"] = float(cosines.mean())
    log.write("val", seen, time.monotonic() - began, values)
    log.grid(seen, *(part[:GRID] for part in (batch["lq"], batch["references"], restored, batch["target"])))


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
