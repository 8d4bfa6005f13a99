"""Writes a restorer as a folder that `Restorer.from_pretrained` and `--run FOLDER` read on any machine.

FOLDER/README.md is a model card in the format of model hubs. The other files are listed below. Every restorer has the
files of the first line, and a restorer on a diffusion base has all of these files.

    config.json, model.safetensors       the architecture, and all weights except the frozen base
    unet/, vae/, scheduler/              the frozen base, in the layout of diffusers
    pytorch_lora_weights.safetensors     the adapters of the UNet, for diffusers; model.safetensors has them, too
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from manifests.export.output_folder import publish_folder
from train.export.export_onnx import check_export_folder
from train.export.model_card import CARD, read_run_facts, render_card
from train.models.checkpoint_files import (
    BASE_SHA256,
    CONFIG,
    OWN_BASE,
    WEIGHTS,
    find_checkpoint_folder,
    write_model_files,
)
from train.models.config import ModelConfig
from train.models.restorer import Restorer
from train.recipes.recipes import DIFFUSION

LORA = "pytorch_lora_weights.safetensors"  # The file name that diffusers reads.
_BASE_FILES = ("unet/", "vae/", "scheduler/")


@dataclass(frozen=True)
class ExportedFolder:
    """Tells what an export wrote."""

    folder: str
    files: tuple[str, ...]
    bytes: int


def list_pretrained_files(run: Path, base_model: str | None = None) -> list[str]:
    """Returns the names of the files and folders that `export_pretrained` writes.

    Raises BadInput if the restorer cannot be loaded.
    """
    model = Restorer.from_pretrained(run, base_model)
    return [CARD, CONFIG, WEIGHTS, *_list_base_files(model.config)]


def export_pretrained(run: Path, out: Path, base_model: str | None = None) -> ExportedFolder:
    """Writes the restorer of a run or a checkpoint into the folder `out`. The folder appears only when it is complete.

    `base_model` is as in `Restorer.from_pretrained`. The files contain no path of this machine: the face models are
    named without their folder. The same restorer gives the same bytes. Raises BadInput if `out` is not empty, or if the
    restorer cannot be loaded.
    """
    check_export_folder(out)
    model = Restorer.from_pretrained(run, base_model)
    checkpoint = find_checkpoint_folder(run)
    config, weights, facts = model.config, model.weights(), _remove_paths(model.facts)
    base = config.base_model
    if model.base_sha256 is not None:
        facts[BASE_SHA256] = model.base_sha256
        config = replace(config, base_model=OWN_BASE)
    del model  # the base of a diffusion model is loaded again, without the adapters
    with publish_folder(out) as folder:
        write_model_files(folder.root, config, facts, weights)
        files = [CONFIG, WEIGHTS]
        if base != config.base_model:
            files += _write_base(folder.root, base)
            if adapters := _name_adapters(weights):
                (folder.root / LORA).write_bytes(save(adapters))
                files.append(LORA)
        for name in files:
            folder.count_file(name)
        folder.add_bytes(CARD, render_card(config, facts, base, read_run_facts(checkpoint)).encode())
        return ExportedFolder(str(out), (CARD, *files), folder.bytes)


def _list_base_files(config: ModelConfig) -> list[str]:
    if config.base != DIFFUSION:
        return []
    return [*_BASE_FILES, *([LORA] if config.lora_rank else [])]


def _remove_paths(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the facts with the name of the face models in place of their folder."""
    recognizer = facts.get("recognizer")
    if not isinstance(recognizer, Mapping) or ":" not in str(recognizer.get("spec")):
        return dict(facts)
    kind, place = str(recognizer["spec"]).split(":", 1)
    return {**facts, "recognizer": {**recognizer, "spec": f"{kind}:{Path(place).name}"}}


def _write_base(root: Path, base_model: str) -> list[str]:
    """Writes the UNet, the VAE and the scheduler of a base in the layout of diffusers, and returns the file names."""
    from diffusers import DDIMScheduler

    from train.models.bases.base_folder import NEEDED_SCHEDULE, load_base

    for name, network in zip(("unet", "vae"), load_base(base_model), strict=True):
        network.save_pretrained(root / name)
    schedule: Any = {**DDIMScheduler.load_config(base_model, subfolder="scheduler"), **NEEDED_SCHEDULE}
    DDIMScheduler.from_config(schedule).save_pretrained(root / "scheduler")
    written = sorted(path for name in _BASE_FILES for path in (root / name).iterdir())
    for path in written:
        if path.suffix == ".json":  # diffusers records the path of the base
            described = json.loads(path.read_bytes())
            described.pop("_name_or_path", None)
            path.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    return [path.relative_to(root).as_posix() for path in written]


def _name_adapters(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the adapters of the UNet under the names that diffusers reads, for example unet.(...).lora_A.weight."""
    return {
        name.removeprefix("base.").replace(".default.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
        if name.startswith("base.unet.") and ".lora_" in name
    }
