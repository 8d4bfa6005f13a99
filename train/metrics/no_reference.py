"""NIQE, MUSIQ, MANIQA and CLIP-IQA through pyiqa, where it and their weights are on disk. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from manifests.errors import BadInput
from train.backbones import find_local_file


@dataclass(frozen=True)
class _Weights:
    file: str
    cache: str  # where pyiqa itself keeps it, under torch hub's folder
    url: str


_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"
_CLIP = (
    "https://openaipublic.azureedge.net/clip/models/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
)

# metric -> what pyiqa 0.1.16 loads for the metric of that name
WEIGHTS = {
    name: _Weights(file, cache, f"{place}/{file}")
    for name, file, cache, place in (
        ("niqe", "niqe_modelparameters.mat", "pyiqa", _PYIQA),
        ("musiq", "musiq_koniq_ckpt-e95806b9.pth", "pyiqa", _PYIQA),
        ("maniqa", "ckpt_koniq10k.pt", "pyiqa", _PYIQA),
        ("clipiqa", "RN50.pt", "clip", _CLIP),
    )
}

Score = Callable[[torch.Tensor], list[float]]  # (B, 3, S, S) in 0..1 -> a figure an image


def explain_missing(name: str, weights: Path | None) -> str | None:
    """Why a metric of WEIGHTS cannot be computed, in one sentence; None where it can."""
    if importlib.util.find_spec("pyiqa") is None:
        return "pyiqa is not installed: pip install 'likeness[iqa]'."
    needed = WEIGHTS[name]
    if find_local_file(needed.file, weights, needed.cache) is None:
        return f"{needed.file} is not here: put it (from {needed.url}) into a folder and say --weights FOLDER."
    return None


def load_no_reference(name: str, weights: Path | None) -> Score:
    """A metric of WEIGHTS, on the CPU. Raises BadInput where it is missing or its file does not fit."""
    needed = WEIGHTS[name]
    path = find_local_file(needed.file, weights, needed.cache)
    reason = explain_missing(name, weights)
    if reason is not None or path is None:
        raise BadInput(f"{name} cannot be computed: {reason}")
    try:
        metric = _load(name, path)
    except ImportError as error:
        raise BadInput(
            f"pyiqa is installed and cannot be imported ({error}): pip install 'likeness[iqa]' again."
        ) from error
    except Exception as error:  # whatever is wrong with the file, the answer is the same
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise BadInput(
            f"{path} does not hold the weights of pyiqa's {name} ({why}): put {needed.url} there."
        ) from error

    def judged(images: torch.Tensor) -> list[float]:
        return [float(value) for value in metric(images).reshape(-1)]

    return judged


def _load(name: str, path: Path) -> Any:
    from pyiqa.models.inference_model import InferenceModel

    if name == "niqe":
        return InferenceModel(name, device="cpu", pretrained_model_path=str(path))
    if name == "clipiqa":
        torch.jit.load(str(path), map_location="cpu")  # pyiqa would unpickle what is no TorchScript
        return InferenceModel(name, device="cpu", backbone=str(path))
    # pyiqa unpickles whatever a checkpoint holds; here nothing but tensors is read
    state = torch.load(path, map_location="cpu", weights_only=True)
    with ExitStack() as held:
        if name == "maniqa":
            import timm

            # pyiqa downloads an ImageNet backbone, to overwrite it with the checkpoint's own
            def untrained(model: str, pretrained: bool = False) -> Any:
                return create(model, pretrained=False)

            create = timm.create_model
            held.enter_context(patch.object(timm, "create_model", untrained))
        metric = InferenceModel(name, device="cpu", pretrained=False)
    metric.net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return metric
