"""Computes NIQE, MUSIQ, MANIQA and CLIP-IQA with pyiqa from weights that are already on disk."""

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
from train.losses.backbones import explain_wrong_file, find_local_file


@dataclass(frozen=True)
class _Weights:
    file: str
    cache: str  # the subfolder of the torch hub folder in which pyiqa stores the file
    url: str


_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"
_CLIP = (
    "https://openaipublic.azureedge.net/clip/models/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
)

# Maps each metric to the weights that pyiqa 0.1.16 loads for it.
WEIGHTS = {
    name: _Weights(file, cache, f"{place}/{file}")
    for name, file, cache, place in (
        ("niqe", "niqe_modelparameters.mat", "pyiqa", _PYIQA),
        ("musiq", "musiq_koniq_ckpt-e95806b9.pth", "pyiqa", _PYIQA),
        ("maniqa", "ckpt_koniq10k.pt", "pyiqa", _PYIQA),
        ("clipiqa", "RN50.pt", "clip", _CLIP),
    )
}

Score = Callable[[torch.Tensor], list[float]]  # maps images (B, 3, S, S) in 0..1 to one value for each image


def explain_missing(name: str, weights: Path | None) -> str | None:
    """Returns a sentence that says why a metric of WEIGHTS cannot be computed, or None if it can be computed. Downloads
    nothing."""
    if importlib.util.find_spec("pyiqa") is None:
        return "pyiqa is not installed: pip install 'likeness[iqa]'."
    needed = WEIGHTS[name]
    if find_local_file(needed.file, weights, needed.cache) is None:
        return (
            f"{needed.file} is missing: download this file from {needed.url} into a folder, and give the folder with "
            "--weights FOLDER."
        )
    return None


def load_no_reference(name: str, weights: Path | None, device: str = "cpu") -> Score:
    """Returns the function that computes a metric of WEIGHTS on the torch device `device`.

    Raises BadInput if pyiqa is not installed, or if the file of weights is missing or wrong.
    """
    needed = WEIGHTS[name]
    path = find_local_file(needed.file, weights, needed.cache)
    reason = explain_missing(name, weights)
    if reason is not None or path is None:
        raise BadInput(f"{name} cannot be computed: {reason}")
    with explain_wrong_file(
        f"{path} does not contain the weights of pyiqa's {name}", f"replace the file by {needed.url}"
    ):
        try:
            metric = _load(name, path, device)
        except ImportError as error:
            raise BadInput(
                f"pyiqa is installed, but it cannot be imported ({error}): repeat `pip install 'likeness[iqa]'`."
            ) from error

    def score(images: torch.Tensor) -> list[float]:
        return [float(value) for value in metric(images).reshape(-1)]

    return score


def _load(name: str, path: Path, device: str) -> Any:
    from pyiqa.models.inference_model import InferenceModel

    if name == "niqe":
        return InferenceModel(name, device=device, pretrained_model_path=str(path))
    if name == "clipiqa":
        # pyiqa would unpickle a file that is not TorchScript. torch.jit.load raises an error for such a file.
        torch.jit.load(str(path), map_location="cpu")
        return InferenceModel(name, device=device, backbone=str(path))
    # pyiqa would unpickle the whole checkpoint. The next line reads only tensors.
    state = torch.load(path, map_location="cpu", weights_only=True)
    with ExitStack() as patches:
        if name == "maniqa":
            import timm

            # pyiqa would download ImageNet weights of the backbone, which the weights of the checkpoint would then
            # replace.
            def create_untrained(model: str, pretrained: bool = False) -> Any:
                return create(model, pretrained=False)

            create = timm.create_model
            patches.enter_context(patch.object(timm, "create_model", create_untrained))
        metric = InferenceModel(name, device=device, pretrained=False)
    metric.net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return metric
