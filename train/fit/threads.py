"""Computes the two halves of a batch at the same time, each in a thread with half of the cores.

A step has many operations that use only one core. While one thread runs such an operation, the other thread uses the
other cores. The gain was 30% with one dataset and 3% with another (docs/train.md, The engine).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from train.fit.distributed import get_world_size
from train.fit.settings import Settings
from train.recipes.recipes import TINY, Recipe

THREADS = 2  # The number of threads (ours), measured on 2 cores.


def start_threads(recipe: Recipe, settings: Settings, device: torch.device) -> ThreadPoolExecutor | None:
    """Returns two threads for the halves of a batch, or None if a step of this run computes its batch in one thread.

    A step uses the threads for base tiny on a CPU with at least two cores. Five things need a single thread: a
    discriminator, whose parameters get gradients at some times only; torch.compile; --accumulate; several processes,
    which already share the cores; and a batch with an odd number of images.

    The result of a step does not depend on which thread is faster, because each weight gets the sum of two gradients.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores < THREADS or recipe.base != TINY or recipe.batch % THREADS:
        return None
    if recipe.discriminator or settings.compile or settings.accumulate > 1 or get_world_size() > 1:
        return None
    return ThreadPoolExecutor(THREADS, "step", initializer=torch.set_num_threads, initargs=(cores // THREADS,))
