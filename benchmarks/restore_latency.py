"""Measures how long a restorer needs for each face.

    python benchmarks/restore_latency.py [--recipe osdface] [--base-model FOLDER] [--repeats 3] [--keep]

The benchmark times calls of the model. The input and the output of a call are images on the device. Detection, pasting
and files are not part of a call. Two models are measured: the recipe tiny at 128 px, and a network at 512 px in the
shape of Stable Diffusion 2.1-base with random weights. A restorer that uses references gets at most four references. A
figure is the median of the repeats after a warm-up call. On a CPU, the batch size is 1. On a GPU, batches of 1 and of
16 are measured, in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record_result import record_result

from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION, TINY, find_recipe

DIM = 512  # the dimension of the embeddings of the usual ArcFace packs
REFERENCES = 4


@torch.inference_mode()
def time_calls(model: Restorer, batch: int, references: int, repeats: int, precision: str) -> list[float]:
    """Returns the milliseconds per face of each of `repeats` calls."""
    device, size = next(model.parameters()).device, model.config.size
    generator = torch.Generator().manual_seed(0)
    lq = torch.rand(batch, 3, size, size, generator=generator).to(device)
    crops = torch.rand(batch, references, 3, size, size, generator=generator).to(device)
    embeddings = torch.randn(batch, references, model.config.embedding_dim, generator=generator)
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1).to(device)
    present = torch.ones(batch, references, dtype=torch.bool, device=device)

    def call() -> float:
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            model(lq, crops, present, embeddings)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began) / batch

    call()
    return [call() for _ in range(repeats)]


def measure(recipe: str, base: str, base_model: str, repeats: int) -> list[dict[str, Any]]:
    """Returns a row for each batch size and precision."""
    settings, cuda = find_recipe(recipe, base), torch.cuda.is_available()
    torch.manual_seed(0)
    model = Restorer(build_model_config(settings, DIM, base_model)).eval().to("cuda" if cuda else "cpu")
    references = min(REFERENCES, max(settings.reference_counts))
    rows = []
    for batch, precision in ((1, "fp32"), (1, "bf16"), (16, "fp32"), (16, "bf16")) if cuda else ((1, "fp32"),):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times = time_calls(model, batch, references, repeats, precision)
        rows.append(
            {
                "recipe": recipe,
                "base": base,
                "size": settings.size,
                "batch": batch,
                "references": references,
                "precision": precision,
                "ms_per_face": round(median(times), 1),
                "ms_of_each_repeat": [round(one, 1) for one in times],
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
                "peak_rss_gib_so_far": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["osdface"], help="recipes to measure on the diffusion base")
    parser.add_argument("--base-model", help="a diffusers folder (default: the shape of SD 2.1 with random weights)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny-only", action="store_true", help="measure only the recipe tiny")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/restore_latency.json")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more.")
    rows = measure("tiny", TINY, TINY, options.repeats)
    if not options.tiny_only:
        with tempfile.TemporaryDirectory() as folder:
            base = options.base_model
            if base is None:
                from random_sd21 import write_random_sd21

                base = str(Path(folder) / "sd21")
                write_random_sd21(Path(base))
            for recipe in options.recipe:
                rows += measure(recipe, DIFFUSION, base, options.repeats)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    record_result("restore_latency", {"device": device, "torch": torch.__version__, "rows": rows}, options.keep)


if __name__ == "__main__":
    main()
