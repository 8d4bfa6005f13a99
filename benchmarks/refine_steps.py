"""Trains the generator of ReFine for a few steps, and measures the time and the memory of a step.

    python benchmarks/refine_steps.py [--recipe refine|refine-small] [--steps N] [--batch N] [--weights FOLDER] [--keep]

The pictures are random. Without --weights, the script writes random weights of VGG16 and IR-SE50 into a temporary
folder. Random weights are as fast as the real weights. Step 0 also computes the penalty R1 of the discriminator. The
script ends with an error if a loss is NaN or infinite. The time is processor time, because other programs may run on
the machine.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record_result import record_result
from torchvision.models import vgg16

from train.data.to_device import to_device
from train.fit.dry_run import make_random_batch
from train.fit.engine import build
from train.fit.settings import Settings
from train.fit.steps.gradient_penalty import compute_penalty_gradients, is_penalty_due
from train.fit.steps.step import compute_gradients
from train.losses.backbones import get_file_name
from train.models.config import IR_SE50
from train.models.identity.identity_encoder import IrSe
from train.models.released.ir_se50 import FILE
from train.recipes.recipes import STYLEGAN_RECIPES, find_recipe

DIM = 512  # The length of the recognizer's embeddings. Recipe refine-small reads these embeddings.


def write_random_weights(folder: Path) -> Path:
    """Writes random weights of VGG16 and IR-SE50 under the names of the real files. Returns the folder."""
    torch.manual_seed(0)
    layers = vgg16().features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in layers.items()}, folder / get_file_name("vgg16"))
    torch.save(IrSe(IR_SE50).state_dict(), folder / FILE)
    return folder


def measure_steps(name: str, steps: int, batch: int, weights: Path) -> dict[str, Any]:
    """Returns the losses of the last step, the processor seconds of a step, and the peak memory."""
    recipe = replace(find_recipe(name), batch=batch)
    if recipe.identity_encoder == "recognizer":  # the script has no recognizer
        recipe = replace(recipe, losses={loss: w for loss, w in recipe.losses.items() if loss != "reference_identity"})
    engine = build(recipe, DIM, 0, Settings(weights=weights), "fp32", None)
    faces = to_device(make_random_batch(recipe, DIM, batch, 0), engine.device)
    seconds, losses = [], dict[str, float]()
    for step in range(steps):
        began = time.process_time()
        figures = compute_gradients(engine, [faces], step * batch, 0)
        engine.optimizer.step()
        assert engine.discriminator_optimizer is not None
        engine.discriminator_optimizer.step()
        if is_penalty_due(recipe, step * batch):
            compute_penalty_gradients(engine, [faces])
            engine.discriminator_optimizer.step()
        losses = {loss: value.item() for loss, value in figures.items()}
        seconds.append(time.process_time() - began)
        print(
            f"step {step}: {seconds[-1]:.1f} s", *(f"{loss} {value:.4g}" for loss, value in losses.items()), flush=True
        )
        if broken := [loss for loss, value in losses.items() if not math.isfinite(value)]:
            raise SystemExit(f"Step {step} failed: {broken[0]} is NaN or infinite.")
    trained = sum(p.numel() for group in engine.optimizer.param_groups for p in group["params"])
    return {
        "recipe": name,
        "size": recipe.size,
        "channel_limit": recipe.channel_limit,
        "batch": batch,
        "steps": steps,
        "processor_seconds_a_step": round(median(seconds[1:] or seconds), 2),
        "precision": "fp32",
        "threads": torch.get_num_threads(),
        "trained_parameters_of_the_generator": trained,
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "losses": {loss: float(f"{value:.4g}") for loss, value in losses.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=STYLEGAN_RECIPES, default="refine")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4, help="images in a step; the release of ReFine has 4")
    parser.add_argument("--weights", type=Path, help="the folder with the weights of VGG16 and IR-SE50")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/refine_steps.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or write_random_weights(Path(folder))
        result = measure_steps(options.recipe, options.steps, options.batch, weights)
    record_result("refine_steps", result, options.keep)


if __name__ == "__main__":
    main()
