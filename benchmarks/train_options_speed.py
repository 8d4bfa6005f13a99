"""Measures what the options of training on a diffusion base save: bf16, kept activations, kept latents, compiling.

    python benchmarks/train_options_speed.py [--base-model sd21] [--size 512] [--batch 4] [--compile] [--keep]

The baseline is float32 with gradient checkpointing, which computes the latents of the targets in each step. Every
training runs in a process of its own, and trains the recipe idm, which needs no downloaded weights, on the same random
pictures. The baseline and one option take steps in turn. The time of a training is the median of its steps, without the
first step, which compiles and fills the latents. `ratio` is the time of the option divided by the time of the baseline
in the same turns. The activations are all tensors that a step keeps for its gradients. The memory is the peak of the
process, and on a GPU also the peak of the GPU.

Without --base-model, the base is a miniature: it has the layers of Stable Diffusion 2.1, with an eighth of the channels
and random weights. `sd21` has the shape of Stable Diffusion 2.1 with random weights. A step of `sd21` at 512 px takes
minutes on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from random_sd21 import write_random_sd21
from record_result import record_result

from train.data.to_device import to_device
from train.fit.dry_run import make_random_batch, run_update
from train.fit.engine import build
from train.fit.settings import Settings
from train.models.bases.target_latents import CAPACITY, TargetLatents
from train.recipes.recipes import DIFFUSION, IDM, find_recipe

DIM = 16  # The length of the random embeddings. Recipe idm does not read embeddings.
DIVISOR = 8  # The miniature has this fraction of the channels of Stable Diffusion 2.1.
MIB = 2**20


@dataclass(frozen=True)
class Option:
    """Describes a training: its precision, whether it keeps the latents of the targets, and its other settings."""

    precision: str = "fp32"
    keeps_latents: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


BASELINE = "float32"
OPTIONS = {
    BASELINE: Option(),
    "kept latents": Option(keeps_latents=True),
    "kept activations": Option(settings={"keep_activations": True}),
    "bf16": Option("bf16"),
    "bf16, kept latents and activations": Option("bf16", True, {"keep_activations": True}),
    "compiled": Option(settings={"compile": True}),
}
COMPILED = "compiled"


@dataclass(frozen=True)
class Step:
    """Holds the time of one step, and the memory of the process until now. `gpu` is 0 without a GPU."""

    seconds: float
    activations: int  # bytes
    memory: int  # bytes
    gpu: int  # bytes


def make_step(name: str, base: str, size: int, batch: int) -> Callable[[], Step]:
    """Returns the function that takes the next training step of the option `name`."""
    option = OPTIONS[name]
    recipe = replace(find_recipe(IDM, DIFFUSION), size=size, batch=batch)
    engine = build(recipe, DIM, 0, Settings(base_model=base, **option.settings), option.precision, None)
    capacity = CAPACITY if option.keeps_latents else 0
    engine = replace(engine, latents=TargetLatents(engine.model.base.encode, capacity))
    pictures = make_random_batch(recipe, DIM, batch, 0)
    pictures["target_hash"] = torch.arange(2 * batch).view(-1, 2)
    on_gpu, turn = engine.device.type == "cuda", 0

    def step() -> Step:
        nonlocal turn
        loaded = to_device(pictures, engine.device)
        if on_gpu:
            torch.cuda.synchronize()
        start = perf_counter()
        activations = run_update(engine, [loaded], turn, 0)
        if on_gpu:
            torch.cuda.synchronize()
        seconds, turn = perf_counter() - start, turn + 1
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Step(seconds, activations, memory, torch.cuda.max_memory_allocated() if on_gpu else 0)

    return step


def serve_steps(connection: Connection, *training: Any) -> None:
    """Takes a step for each message, and sends the step back. Ends when the other end of the connection is closed."""
    step = make_step(*training)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(step())


@contextmanager
def start_training(name: str, base: str, size: int, batch: int) -> Iterator[Callable[[], Step]]:
    """Starts a process for the option `name`, and yields the function that takes its next training step."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_steps, args=(theirs, name, base, size, batch))
    process.start()
    theirs.close()

    def step() -> Step:
        ours.send(None)
        try:
            done: Step = ours.recv()
        except EOFError:
            raise SystemExit(f"The training with {name} failed. Its error is above.") from None
        return done

    try:
        yield step
    finally:
        ours.close()
        process.join()


def measure(base: str, size: int, batch: int, rounds: int, names: list[str]) -> dict[str, dict[str, float]]:
    """Returns the time of a step, its ratio to the baseline, and the memory, for the baseline and each of `names`."""
    rows: dict[str, dict[str, float]] = {}
    with start_training(BASELINE, base, size, batch) as take_baseline_step:
        for name in names:
            with start_training(name, base, size, batch) as take_step:
                pairs = [(take_baseline_step(), take_step()) for _ in range(rounds + 1)][1:]
            baseline, option = zip(*pairs, strict=True)
            rows.setdefault(BASELINE, describe(baseline, baseline))
            rows[name] = describe(option, baseline)
    return rows


def describe(steps: tuple[Step, ...], baseline: tuple[Step, ...]) -> dict[str, float]:
    """Returns the row of a training: its time and memory, and the ratio of its time to the time of `baseline`."""
    seconds, last = median(step.seconds for step in steps), steps[-1]
    return {
        "seconds": round(seconds, 3),
        "ratio": round(seconds / median(step.seconds for step in baseline), 3),
        "activations_mib": round(last.activations / MIB, 1),
        "memory_mib": round(last.memory / MIB),
        **({"gpu_mib": round(last.gpu / MIB)} if last.gpu else {}),
    }


def measure_base(model: str, size: int, batch: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Returns the rows for a base: `miniature`, `sd21`, or the folder of a diffusion model."""
    names = [name for name in OPTIONS if name != BASELINE and (compiled or name != COMPILED)]
    with tempfile.TemporaryDirectory() as folder:
        base = model
        if model in ("miniature", "sd21"):
            base = folder
            write_random_sd21(Path(base), DIVISOR if model == "miniature" else 1)
        rows = measure(base, size, batch, rounds, names)
    left_out = {} if compiled else {COMPILED: "not run: give --compile"}
    return {"base_model": model, "size": size, "batch": batch, "rounds": rounds, **rows, **left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", default="miniature", help="miniature (default), sd21, or a diffusers folder")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default 128)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each training (default 5)")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, which compiles for minutes")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/train_options_speed.json")
    options = parser.parse_args()
    found = measure_base(options.base_model, options.size, options.batch, options.rounds, options.compile)
    for name, row in found.items():
        if isinstance(row, dict):
            shown = f"{row['seconds']:8.3f} s {row['ratio']:6.3f} {row['activations_mib']:9.1f} MiB of activations"
            print(f"{name:36} {shown}, {row['memory_mib']} MiB of memory", flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    record_result("train_options_speed", {"device": device, **found}, options.keep)


if __name__ == "__main__":
    main()
