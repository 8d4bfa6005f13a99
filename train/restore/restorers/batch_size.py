"""Finds how many faces a restorer can restore at once in the free memory."""

from __future__ import annotations

from pathlib import Path

import torch

from train.models.restorer import Restorer
from train.recipes.recipes import STYLEGAN, TINY
from train.restore.references.reference_photos import join_references
from train.restore.restorers.run_restorer import find_device, run_batch

# A batch may need this share of the free memory. The rest is for references, photos and the losses of the allocator.
# All numbers of this file are ours.
MEMORY_SHARE = 0.5
# The number of bytes that a face may need on a CPU, for each pixel. For base tiny at 256 px, we measured 122 bytes. The
# outputs of all layers together have 387 bytes. The number of base stylegan is an estimate.
BYTES_PER_PIXEL = {TINY: 400, STYLEGAN: 4000}
# The largest batches. We measured base tiny at 256 px on one core of a CPU: a face without references takes 64 ms in a
# batch of 1, 46 ms in a batch of 4, and 37 ms in a batch of 8. We did not measure on a GPU.
MOST_ON_CPU, MOST_ON_GPU = 8, 32


def find_batch_size(model: Restorer, precision: str = "fp32") -> int:
    """Returns how many faces need at most MEMORY_SHARE of the free memory. The result is at least 1.

    On a GPU, one black face is restored to measure the memory that a face needs. On a CPU, the table BYTES_PER_PIXEL
    gives this memory. On a CPU, the result for a diffusion base is 1, because one face at 512 px keeps all cores busy.
    On systems without /proc/meminfo, the free memory is unknown, so the result on a CPU is 1.
    """
    size, base = model.config.size, model.config.base
    if find_device(model).type == "cpu":
        needed = BYTES_PER_PIXEL.get(base, 0) * size**2
        return max(1, min(MOST_ON_CPU, int(MEMORY_SHARE * read_free_memory() / needed))) if needed else 1
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run_batch(model, torch.zeros(1, 3, size, size), [join_references((), size, model.config.embedding_dim)], precision)
    needed = max(torch.cuda.max_memory_allocated() - before, 1)
    return max(1, min(MOST_ON_GPU, int(MEMORY_SHARE * torch.cuda.mem_get_info()[0] / needed)))


def read_free_memory() -> int:
    """Returns the number of bytes that programs can still allocate on this machine, or 0 if it is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
