"""Measures how long the network of a recipe needs for each face, and how much memory.

    python benchmarks/restore_latency.py [--recipe tiny refine-unet refine osdface] [--base-model FOLDER] [--keep]

The benchmark times calls of the network. The input and the output of a call are images on the device. Detection,
pasting, files and IR-SE50 are not part of a call. The weights are random. The table NETWORKS has the base of some
recipes. All other recipes are measured on a diffusion base: the folder of --base-model, or the shape of Stable
Diffusion 2.1-base with random weights. A network that uses references gets at most four references. A time is the
median of the repeats after a warm-up call. The memory is the peak memory of a process that runs only one network. On a
CPU, the batch size is 1, and bfloat16 is measured if the CPU multiplies in bfloat16. On a GPU, batches of 1 and of 16
are measured, in float32 and in bfloat16. The differences between float32 and bfloat16 come from random weights, so they
say nothing about real faces.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record_result import record_result

from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION, STYLEGAN, TINY, find_recipe

DIM = 512  # the dimension of the embeddings of the usual ArcFace packs
REFERENCES = 4
SPREAD = 0.02  # the standard deviation of the noise that is added to the trained weights
NETWORKS = {"tiny": TINY, "refine-unet": TINY, "refine": STYLEGAN, "refine-small": STYLEGAN}  # recipe -> base


def time_calls(model: Restorer, batch: int, references: int, repeats: int, precision: str) -> list[float]:
    """Returns the milliseconds per face of each of `repeats` calls."""
    inputs, device = draw_inputs(model, batch, references), next(model.parameters()).device

    def call() -> float:
        began = time.perf_counter()
        restore(model, inputs, precision)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began) / batch

    call()
    return [call() for _ in range(repeats)]


def draw_inputs(model: Restorer, batch: int, references: int) -> tuple[torch.Tensor, ...]:
    """Returns random inputs of a restorer, on its device: smooth LQ images, references, slots and embeddings."""
    device, size = next(model.parameters()).device, model.config.size
    generator = torch.Generator().manual_seed(0)
    lq = torch.rand(batch, 3, 16, 16, generator=generator)
    lq = torch.nn.functional.interpolate(lq, (size, size), mode="bicubic").clamp(0, 1)
    crops = torch.rand(batch, references, 3, size, size, generator=generator)
    embeddings = torch.randn(batch, references, model.config.embedding_dim, generator=generator)
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
    present = torch.ones(batch, references, dtype=torch.bool)
    return tuple(tensor.to(device) for tensor in (lq, crops, present, embeddings))


@torch.inference_mode()
def restore(model: Restorer, inputs: tuple[torch.Tensor, ...], precision: str) -> torch.Tensor:
    """Returns the restored images (B,3,S,S) in 0..1. `precision` is fp32 or bf16."""
    with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=precision == "bf16"):
        image: torch.Tensor = model(*inputs).image.float()
    return image


def compare_with_float32(model: Restorer, inputs: tuple[torch.Tensor, ...], precision: str) -> dict[str, float]:
    """Returns the mean and the largest difference between images restored in `precision` and in float32, in levels of
    0..255."""
    apart = (restore(model, inputs, precision) - restore(model, inputs, "fp32")).abs() * 255
    return {"mean_levels": round(float(apart.mean()), 3), "largest_levels": round(float(apart.max()), 2)}


def measure(recipe: str, base: str, base_model: str, repeats: int) -> list[dict[str, Any]]:
    """Returns a row for each batch size and precision."""
    settings, cuda = find_recipe(recipe, base), torch.cuda.is_available()
    torch.manual_seed(0)
    model = Restorer(build_model_config(settings, DIM, base_model)).eval()
    with torch.no_grad():  # new layers of zeros would hide the differences of the layers before them
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(SPREAD * torch.randn_like(weight))
    model.to("cuda" if cuda else "cpu")
    references = min(REFERENCES, max(settings.reference_counts))
    rows = []
    batches = (1, 16) if cuda else (1,)
    precisions = ("fp32", "bf16") if cuda or torch.cpu._is_avx512_bf16_supported() else ("fp32",)
    for batch, precision in itertools.product(batches, precisions):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times = time_calls(model, batch, references, repeats, precision)
        row = {
            "recipe": recipe,
            "base": base,
            "size": settings.size,
            "batch": batch,
            "references": references,
            "precision": precision,
            "ms_per_face": round(median(times), 1),
            "ms_of_each_repeat": [round(one, 1) for one in times],
            "parameters": sum(weight.numel() for weight in model.parameters()),
            # The peaks are read before the comparison, which also computes in float32.
            "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
            "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        if precision != "fp32":
            row |= compare_with_float32(model, draw_inputs(model, batch, references), precision)
        rows.append(row)
    return rows


def measure_alone(recipe: str, base: str, base_model: str, repeats: int) -> list[dict[str, Any]]:
    """Returns the rows of `measure` in a process of its own, so that its peak memory is that of one network."""
    words = [sys.executable, __file__, "--one", recipe, base, base_model, "--repeats", str(repeats)]
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["tiny", "refine-unet", "refine", "osdface"])
    parser.add_argument("--base-model", help="a diffusers folder (default: the shape of SD 2.1 with random weights)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/restore_latency.json")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more.")
    if options.one:
        print(json.dumps(measure(*options.one, options.repeats)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipe:
            base, base_model = NETWORKS.get(recipe, DIFFUSION), options.base_model
            if base != DIFFUSION:
                base_model = base
            elif base_model is None:
                from random_sd21 import write_random_sd21

                base_model = str(Path(folder) / "sd21")
                if not Path(base_model).exists():
                    write_random_sd21(Path(base_model))
            rows += measure_alone(recipe, base, base_model, options.repeats)
            print(f"{recipe}: {rows[-1]['ms_per_face']} ms a face", file=sys.stderr)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    record_result("restore_latency", {"device": device, "torch": torch.__version__, "rows": rows}, options.keep)


if __name__ == "__main__":
    main()
