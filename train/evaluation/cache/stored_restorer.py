"""Describes the restorer of a checkpoint without its network.

The network of a restorer on base tiny or stylegan is loaded by the first evaluation, and later only when an image has
to be restored. A later evaluation whose images are all in the cache therefore loads no network and no library of
networks except torch. On a diffusion base, the network is always loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import hash_files, hash_inputs, hash_restorer
from train.models.checkpoint_files import BASE_SHA256, CONFIG, WEIGHTS
from train.models.config import ModelConfig
from train.restore.batches.face_batches import FaceBatches

if TYPE_CHECKING:
    from train.models.restorer import Restorer


@dataclass(frozen=True)
class StoredRestorer:
    """Holds what an evaluation knows about a restorer before it loads the network."""

    config: ModelConfig
    facts: Mapping[str, Any]  # See train/models/restorer.py.
    steps: int  # The number of steps in which a face is restored.
    seed: int  # The seed from which a denoiser draws its noise.
    # Returns a hash of everything that determines a restored image, except the inputs of the restorer, `steps` and
    # `seed`.
    find_hash: Callable[[], str]
    load: Callable[[], Restorer]  # Returns the network, which only the first call loads.


def hold_restorer(model: Restorer) -> StoredRestorer:
    """Returns the description of a restorer that is already in memory."""
    return StoredRestorer(
        model.config, model.facts, model.steps, model.seed, lambda: hash_restorer(model), lambda: model
    )


def open_restorer(checkpoint: Path, base_model: str | None, steps: int) -> StoredRestorer:
    """Returns the description of the restorer in a checkpoint folder. `base_model` and `steps` are as in
    `load_restorer`.

    The files of a checkpoint on base tiny or stylegan contain all weights, so the hash of the restorer is the hash of
    the files. A restorer on a diffusion base is loaded immediately, because its weights are in several places. If the
    description of a checkpoint cannot be read, `load_restorer` is also called immediately, and raises an error that
    says what is wrong.
    """

    @cache
    def load() -> Restorer:
        from train.restore.restorers.load_restorer import load_restorer, move_to_device, speed_up_on_cpu

        return speed_up_on_cpu(move_to_device(load_restorer(checkpoint, base_model, steps)))

    try:
        facts = json.loads((checkpoint / CONFIG).read_text(encoding="utf-8"))
        config = ModelConfig.from_json(facts.pop("model"))
        facts.pop(BASE_SHA256, None)
        has_all_weights = config.base == "tiny" or config.stylegan is not None
        if base_model is not None or not has_all_weights or not (checkpoint / WEIGHTS).is_file():
            return hold_restorer(load())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return hold_restorer(load())
    files = (checkpoint / CONFIG, checkpoint / WEIGHTS)
    return StoredRestorer(config, facts, steps, 0, cache(lambda: hash_files(files)), load)


def check_restorer(restorer: StoredRestorer, cache: EvaluationCache) -> None:
    """Loads the network if no earlier evaluation with this cache has loaded it.

    A checkpoint that cannot be loaded is therefore an error before anything is measured. Raises the errors of
    `load_restorer`.
    """
    key = hash_inputs("loaded restorer", str(restorer.steps))
    if cache.get(key) is None:
        restorer.load()
        cache.put(key, b"")


def make_batches(restorer: StoredRestorer) -> FaceBatches:
    """Loads a restorer, and returns its batches, whose size depends on the memory of the device."""
    from train.restore.restorers.load_restorer import wrap_restorer  # loads the libraries of networks

    wrapped = wrap_restorer(restorer.load(), "fp32", shares_cores=False)
    return FaceBatches(wrapped, wrapped.find_batch_size())
