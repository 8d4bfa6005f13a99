"""Saving, loading and removing checkpoints. A checkpoint folder appears complete or not at all.

RUN/checkpoint-<images>/
    config.json, model.safetensors               see train/models/checkpoint_files.py
    training/weights.safetensors                 the weights in training, and buffers; no frozen weights
    training/optimizer.safetensors               AdamW's moments, by parameter name
    training/discriminator.safetensors           if the recipe has a discriminator
    training/discriminator-optimizer.safetensors
    training/state.json                          images seen, and the recipe's name
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from manifests.errors import BadInput, LikenessError
from manifests.runtime.files import remove_temporary_files
from train.fit.engine import Engine
from train.fit.training_state import collect_state, load_state
from train.models.checkpoint_files import WEIGHTS, list_checkpoints, name_checkpoint
from train.run_folders import SAMPLES

TRAINING = "training"
STATE = "state.json"
KEEP = 3  # newest checkpoints that stay; older ones are removed after a newer one is complete


def sweep_run(run: Path) -> None:
    """Removes files that a killed process left unfinished. Call it only while no other process trains in `run`."""
    for unfinished in run.glob(".checkpoint-*.tmp"):
        shutil.rmtree(unfinished, ignore_errors=True)
    remove_temporary_files(run / SAMPLES)
    remove_temporary_files(run, recursive=False, shared=True)  # `evaluate` writes here too


def save_checkpoint(run: Path, images: int, engine: Engine) -> Path:
    """Writes checkpoint-<images> and returns its folder. The previous checkpoint stays until this one is complete.

    Raises LikenessError if it cannot be written, for example on a full disk.
    """
    final = run / name_checkpoint(images)
    temporary = run / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / TRAINING).mkdir(parents=True)
        with engine.average.swap_in():
            engine.model.save_pretrained(temporary)
        for name, tensors in collect_state(engine).items():
            save_file(tensors, temporary / TRAINING / f"{name}.safetensors")
        state = {"images": images, "recipe": engine.recipe.name}
        (temporary / TRAINING / STATE).write_text(json.dumps(state), encoding="utf-8")
        # The rename publishes the folder, so its files must be on the disk before it.
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error on a full disk
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LikenessError(f"{final} cannot be written ({why}): the last whole checkpoint stays.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(run)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, engine: Engine) -> int:
    """Loads a checkpoint into the engine and returns the number of images that it has seen.

    Raises BadInput if a file is broken, or belongs to another recipe or base.
    """
    try:
        state = json.loads((folder / TRAINING / STATE).read_text(encoding="utf-8"))
        if state["recipe"] != engine.recipe.name:
            raise BadInput(f"{folder} is a checkpoint of recipe {state['recipe']}, not of {engine.recipe.name}.")
        load_state(engine, load_file(folder / WEIGHTS), folder / TRAINING)
        return int(state["images"])
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(
            f"{folder} cannot be resumed from, it is broken or of another model ({' '.join(str(error).split())}): "
            "remove it to go on from the one before."
        ) from error
