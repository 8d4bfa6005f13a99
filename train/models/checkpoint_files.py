"""Names and finds the checkpoint folders RUN/checkpoint-<images>, and writes the two files of a model.

`config.json` has the architecture, and facts for users of the weights. `model.safetensors` has the averaged weights.
`from_pretrained` reads both files. train/fit/checkpoints.py writes the other files of a checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.errors import BadInput
from manifests.runtime.files import write_atomically
from train.models.config import ModelConfig

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
# The key in config.json for the fingerprint of the base with which the checkpoint was trained.
BASE_SHA256 = "base_sha256"
OWN_BASE = "."  # This value of base_model means that the base is in the same folder as config.json.
PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth")  # Suffixes of files that can run code when they are read.

_NAME = re.compile(r"checkpoint-(\d+)")


def name_checkpoint(images: int) -> str:
    """Returns the folder name of the checkpoint after `images` images, for example checkpoint-00003200."""
    return f"checkpoint-{images:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """Returns the finished checkpoint folders of a run, oldest first. Unfinished folders have other names."""
    numbered = [(int(m[1]), path) for path in run.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def find_newest_checkpoint(folder: Path) -> Path:
    """Returns `folder` itself if it is a checkpoint. If `folder` is a run, returns the newest checkpoint of the run.

    Raises BadInput if `folder` is neither a checkpoint nor a run with a checkpoint.
    """
    if (folder / WEIGHTS).is_file():
        return folder
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise BadInput(f"{folder} contains no checkpoint: give a folder that `likeness train --out` wrote.")
    return checkpoints[-1]


def find_checkpoint_folder(folder: Path) -> Path:
    """Returns the result of `find_newest_checkpoint`, with better messages for wrong folders.

    Raises BadInput if `folder` is a file or contains no checkpoint. If there are pickled weights, the message says that
    Likeness never reads them.
    """
    reason = "pickled weights can run code when they are read, so Likeness never reads them"
    if folder.is_file():
        why = reason if folder.suffix in PICKLED else "a checkpoint is a folder"
        raise BadInput(f"{folder} is a file ({why}): give a folder that `likeness train --out` wrote.")
    try:
        return find_newest_checkpoint(folder)
    except BadInput:
        pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLED]
        if not pickled:
            raise
        raise BadInput(
            f"{folder} contains {pickled[0]} and no {WEIGHTS} ({reason}): give a folder that `likeness train --out` "
            "wrote."
        ) from None


def write_model_files(
    folder: Path, config: ModelConfig, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Writes the two files of a model into `folder`.

    config.json gets the architecture and `facts`. model.safetensors gets `tensors`.
    """
    from safetensors.torch import save  # not at the top: `restore` imports this file before it imports torch

    description = {"model": asdict(config), **facts}
    write_atomically(folder / CONFIG, json.dumps(description, indent=2, sort_keys=True).encode())
    write_atomically(folder / WEIGHTS, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))
