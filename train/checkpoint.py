"""Checkpoints: RUN/checkpoint-<images>/, whole or not at all.

config.json, model.safetensors     the averaged weights and what they are; `Restorer.from_pretrained` reads these
training/weights.safetensors       the weights being trained
training/optimizer.safetensors     AdamW's moments, by parameter name
training/state.json                images seen
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from manifests.errors import BadInput, LikenessError

if TYPE_CHECKING:
    from train.models.restorer import Restorer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TRAINING = "training"
KEEP = 3  # newest checkpoints that stay; older ones go once a newer one is whole

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [(int(m[1]), path) for path in run.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def sweep(run: Path) -> None:
    """Remove what a killed process left of a checkpoint it had not finished."""
    for half in run.glob(".checkpoint-*.tmp"):
        shutil.rmtree(half, ignore_errors=True)


def newest_checkpoint(folder: Path) -> Path:
    """`folder` itself where it is a checkpoint, else the newest one of a RUN. Raises BadInput where there is none."""
    if (folder / WEIGHTS).is_file():
        return folder
    found = checkpoints(folder)
    if not found:
        raise BadInput(f"{folder} holds no checkpoint: name a folder that `likeness train --out` made.")
    return found[-1]


def save_checkpoint(
    run: Path, images: int, model: Restorer, average: Restorer, optimizer: torch.optim.Optimizer
) -> Path:
    """Write checkpoint-<images>; the last whole one stays until the new one is."""
    final = run / f"checkpoint-{images:08d}"
    temporary = run / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / TRAINING).mkdir(parents=True)
    try:
        average.save_pretrained(temporary)
        names = [name for name, _ in model.named_parameters()]
        save_file(_plain(model.state_dict()), temporary / TRAINING / "weights.safetensors")
        moments = {
            f"{names[i]}|{kind}": value
            for i, state in optimizer.state_dict()["state"].items()
            for kind, value in state.items()
        }
        save_file(_plain(moments), temporary / TRAINING / "optimizer.safetensors")
        (temporary / TRAINING / "state.json").write_text(json.dumps({"images": images}), encoding="utf-8")
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except OSError as error:
        raise LikenessError(
            f"{final} cannot be written ({error.strerror}): the last whole checkpoint stays."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(run)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, model: Restorer, average: Restorer, optimizer: torch.optim.Optimizer) -> int:
    """Bring model, average and optimizer to a checkpoint; returns the images it had seen."""
    model.load_state_dict(load_file(folder / TRAINING / "weights.safetensors"))
    average.load_state_dict(load_file(folder / WEIGHTS))
    names = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Any]] = {}
    for key, value in load_file(folder / TRAINING / "optimizer.safetensors").items():
        name, kind = key.rsplit("|", 1)
        state.setdefault(names[name], {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(json.loads((folder / TRAINING / "state.json").read_text(encoding="utf-8"))["images"])


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
