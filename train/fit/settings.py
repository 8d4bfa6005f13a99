"""Resolves the settings of a run.

The first start of a run writes the settings into RUN/config.json. Every later start compares its settings
with RUN/config.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from manifests.errors import BadInput
from manifests.runtime.files import sha256_file, write_atomically
from manifests.runtime.json_log import log
from manifests.runtime.versions import code_version
from train.data.mesh import warps_references
from train.data.snapshot import Snapshot
from train.fit.distributed import check_launch, get_world_size
from train.losses.identity import decide_identity_loss, describe_identity_loss
from train.losses.names import THROUGH_RECOGNIZER
from train.models.checkpoint_files import WEIGHTS, find_newest_checkpoint
from train.models.config import REFINEFIR, check_precision
from train.models.released.ir_se50 import find_ir_se50
from train.models.released.stylegan2 import FILE as STYLEGAN2
from train.recipes.model_configs import build_model_config, find_encoder_shape
from train.recipes.recipes import DIFFUSION, GRAY_IR_SE50, STYLEGAN, TINY, VRE, Recipe
from train.run_folders import RUN_CONFIG, check_run_folder

# The keys are the entries of config.json that must not change. The values are the names of the entries in error
# messages.
_COMPARED = {
    "recipe": "recipe",
    "seed": "seed",
    "snapshot": "snapshot",
    "identity_loss": "identity loss",
    "base_sha256": "base model",
    "vre": "VRE",
    "identity_encoder": "identity encoder",
    "start": "start",
    "precision": "precision",
    "degrade_on": "value of --degrade-on",
}


# Where a training degrades its targets: `workers` are the worker processes, with the exact engine on the CPU; `device`
# is the device of the training, with the torch engine.
DEGRADE_ON = ("workers", "device")


@dataclass(frozen=True)
class Settings:
    """Holds the settings of a run, apart from its data, its recipe, its seed and its number of images."""

    base_model: str = TINY  # The folder or hub name of a diffusion model, or "tiny" for the other bases.
    vre: Path | None = None  # The folder of a run of recipe vre; its LQ dictionary makes the prompt.
    # The folder with the backbones of perceptual losses and with IR-SE50, or None for torch hub's cache.
    weights: Path | None = None
    start: Path | None = None  # The folder with StyleGAN2's weights, from which recipe refine starts.
    precision: str | None = None  # One of PRECISIONS. None means bf16 if the GPU or the CPU supports bf16, else fp32.
    accumulate: int = 1  # A batch is computed in this number of parts, one after the other.
    compile: bool = False  # True compiles the model with torch.compile.
    # True keeps the activations of a diffusion base in memory; False computes them twice (gradient checkpointing).
    keep_activations: bool = False
    # One of DEGRADE_ON. None means device if the machine has a GPU and the recipe allows it, else workers.
    degrade_on: str | None = None
    identity: bool = True  # False turns off the losses that use the dataset's recognizer.


def resolve_with_recognizer(
    recipe: Recipe, snapshot_facts: dict[str, Any], has_onnx: bool, settings: Settings
) -> dict[str, Any]:
    """Returns the facts of `resolve_settings`, and whether the losses that use the recognizer are on.

    Raises BadInput in the same cases as `resolve_settings`.
    """
    spec = snapshot_facts["recognizer"]["spec"]
    if recipe.identity_encoder == GRAY_IR_SE50:
        spec, has_onnx = "IR-SE50", True
    return resolve_settings(recipe, settings) | {
        "identity_loss": decide_identity_loss(recipe.losses, spec, has_onnx, settings.identity)
    }


def resolve_settings(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    """Returns the facts of a run that depend on its recipe and its settings, but not on a snapshot.

    Raises BadInput if the recipe and the settings contradict each other, or if the base or the run of --vre cannot be
    read.
    """
    check_launch()
    if settings.accumulate < 1:
        raise BadInput(f"--accumulate {settings.accumulate} is too small: give 1 or more.")
    if recipe.batch % (get_world_size() * settings.accumulate):
        raise BadInput(
            f"A batch of {recipe.batch} cannot be shared by {get_world_size()} processes "
            f"in {settings.accumulate} parts each: choose --accumulate so that {recipe.batch} is divisible by "
            "the number of processes times the number of parts."
        )
    check_precision(settings.precision)
    if (recipe.base == DIFFUSION) != (settings.base_model != TINY):
        raise BadInput(
            f"Recipe {recipe.name} uses the base {recipe.base}, which cannot be used with --base-model "
            f"{settings.base_model}: {'give another folder' if recipe.base == DIFFUSION else 'leave --base-model out'}."
        )
    if settings.keep_activations and (recipe.base != DIFFUSION or recipe.name == VRE):
        raise BadInput(
            f"Recipe {recipe.name} keeps all activations in any case, because it trains no diffusion model: leave "
            "--keep-activations out."
        )
    degrade_on = resolve_degrade_on(recipe, settings)
    return {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "base_model": settings.base_model if recipe.base == DIFFUSION else recipe.base,
        "base_sha256": _base_sha256(recipe, settings.base_model),
        "vre": _dictionary(recipe, settings.vre),
        "identity_encoder": _identity_encoder(recipe, settings.weights),
        "start": _start(recipe, settings.start),
        "precision": settings.precision or _usual_precision(),
        "accumulate": settings.accumulate,
        "compile": settings.compile,
        "keep_activations": settings.keep_activations,
        "degrade_on": degrade_on,
        "processes": get_world_size(),
    }


def resolve_degrade_on(recipe: Recipe, settings: Settings) -> str:
    """Returns where a training degrades its targets, one of DEGRADE_ON. Raises BadInput if the choice is impossible."""
    wish = settings.degrade_on
    if wish is not None and wish not in DEGRADE_ON:
        raise BadInput(f"--degrade-on {wish} is unknown: give {' or '.join(DEGRADE_ON)}.")
    warps = warps_references(recipe.parts)
    if wish == "device" and warps:
        raise BadInput(
            f"Recipe {recipe.name} warps the references to the landmarks of the degraded face, and only the workers "
            "find landmarks: leave --degrade-on out."
        )
    return wish or ("device" if torch.cuda.is_available() and not warps else "workers")


def check_images(recipe: Recipe, images: int) -> None:
    """Raises BadInput if `images` is smaller than a batch of the recipe."""
    if images < recipe.batch:
        raise BadInput(f"--images {images} is less than one batch of {recipe.batch}: give {recipe.batch} or more.")


def claim_run(
    run: Path, taken: Snapshot, recipe: Recipe, seed: int, settings: Settings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Returns the facts of a run. The first start writes the facts to RUN/config.json. Every later start compares its
    facts with RUN/config.json.

    If --precision or --degrade-on is not given, a resumed run keeps its value. Raises BadInput if an entry of _COMPARED
    differs.
    """
    facts = resolve_with_recognizer(recipe, taken.facts, taken.recognizer_onnx is not None, settings) | {
        "seed": seed,
        "snapshot": {name: taken.facts[name] for name in ("hash", "manifest", "counts")},
        "recognizer": taken.recognizer,
        "code_version": code_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    for notice in describe_identity_loss(recipe.losses, facts["identity_loss"]):
        say(notice)
    check_run_folder(run)
    path = run / RUN_CONFIG
    log("claimed", run=str(run), resumes=path.is_file(), **facts)
    if path.is_file():
        # Runs of earlier versions have no `degrade_on`. Their workers degraded the targets.
        there = {"degrade_on": "workers", **json.loads(path.read_text(encoding="utf-8"))}
        for name in ("precision", "degrade_on"):  # kept even if this machine has other defaults
            if getattr(settings, name) is None:
                facts[name] = there.get(name)
        for name, called in _COMPARED.items():
            if there.get(name) != facts[name]:
                change = _describe_change(there.get(name), facts[name]) if name == "recipe" else ""
                raise BadInput(f"The run in {run} belongs to another {called}{change}: give another folder with --out.")
        return there
    write_atomically(path, json.dumps(facts, indent=2, sort_keys=True).encode())
    return facts


def _describe_change(of_run: Any, of_command: dict[str, Any]) -> str:
    """Returns which values of the two recipes differ, such as " (the preset is severe there, and mild here)"."""
    if not isinstance(of_run, dict):
        return ""
    names = [name for name in {**of_command, **of_run} if of_run.get(name) != of_command.get(name)]
    values = [f"the {name} is {of_run.get(name)} there, and {of_command.get(name)} here" for name in names]
    return f" ({'; '.join(values)})"


def drop_inactive_losses(recipe: Recipe, facts: dict[str, Any]) -> Recipe:
    """Returns the recipe without the losses that are turned off in this run."""
    if facts["identity_loss"]["on"]:
        return recipe
    return replace(recipe, losses={n: w for n, w in recipe.losses.items() if n not in THROUGH_RECOGNIZER})


def find_recognizer(taken: Snapshot, facts: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """Returns the ONNX file and the facts of the dataset's recognizer, or None if no loss of this run needs them."""
    if not facts["identity_loss"]["on"] or taken.recognizer_onnx is None or facts["identity_encoder"] is not None:
        return None
    return taken.recognizer_onnx, taken.recognizer


def describe_restorer(taken: Snapshot, recipe: Recipe, images: int) -> dict[str, Any]:
    """Returns the facts that a checkpoint saves beside its weights, for everybody who uses the weights."""
    from curate.faces.align import FFHQ_512

    return {
        "recipe": recipe.name,
        "images": images,
        "snapshot": taken.hash,
        # A checkpoint states whether its training used cleaned targets.
        **({"cleaned": taken.facts["cleaned"]} if "cleaned" in taken.facts else {}),
        "recognizer": taken.recognizer,
        "template": FFHQ_512.tolist(),
        # A restorer that saw references with every training image restores a face only with references.
        **({} if 0 in recipe.reference_counts else {"needs_reference": True}),
    }


def _base_sha256(recipe: Recipe, base_model: str) -> str:
    if recipe.base != DIFFUSION:
        return ""
    from train.models.bases.base_folder import base_fingerprint, check_base

    check_base(build_model_config(recipe, 0, base_model))
    return str(base_fingerprint(base_model))


def _dictionary(recipe: Recipe, vre: Path | None) -> dict[str, str] | None:
    """Returns the name and the sha256 of the checkpoint with the LQ dictionary, or None without part `vre`.

    A resumed run compares the sha256, so the run always uses the same dictionary.
    """
    if "vre" not in recipe.parts:
        if vre is not None:
            raise BadInput(f"Recipe {recipe.name} has no part vre: leave --vre out.")
        return None
    if vre is None:
        raise BadInput(
            f"Recipe {recipe.name} needs a visual representation embedder: train an embedder with `likeness train "
            "DATASET --recipe vre --out RUN`, and give the folder of this run with --vre RUN."
        )
    folder = find_newest_checkpoint(vre)
    try:
        trained_as = json.loads((folder / RUN_CONFIG).read_text(encoding="utf-8")).get("recipe")
    except (OSError, ValueError, AttributeError):
        trained_as = None
    if trained_as != "vre":
        raise BadInput(f"{vre} is not a run of recipe vre: give the folder of a run of recipe vre with --vre.")
    return {"checkpoint": folder.name, "sha256": sha256_file(folder / WEIGHTS)}


def _identity_encoder(recipe: Recipe, weights: Path | None) -> str | None:
    """Returns the sha256 of the file of IR-SE50, or None if the recipe does not use IR-SE50."""
    return None if find_encoder_shape(recipe) is None else sha256_file(find_ir_se50(weights))


def _start(recipe: Recipe, folder: Path | None) -> str | None:
    """Returns the sha256 of StyleGAN2's weights, or None without --start."""
    if folder is None:
        return None
    if recipe.base != STYLEGAN:
        raise BadInput(f"Recipe {recipe.name} has no StyleGAN2 decoder: leave --start out, or take the recipe refine.")
    if (recipe.size, recipe.channel_limit) != (REFINEFIR.size, REFINEFIR.limit):
        raise BadInput(
            f"--start needs size {REFINEFIR.size} and channel_limit {REFINEFIR.limit}, as in the released weights, but "
            f"recipe {recipe.name} has size {recipe.size} and channel_limit {recipe.channel_limit}: leave --start out, "
            "or take the recipe refine."
        )
    if not (folder / STYLEGAN2).is_file():
        raise BadInput(f"{folder} contains no {STYLEGAN2}: put the file there that ReFineFIR's README names.")
    return sha256_file(folder / STYLEGAN2)


def _usual_precision() -> str:
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
