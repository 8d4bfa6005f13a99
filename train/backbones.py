"""Where the backbones of perceptual losses come from: the user's folder, torch hub's cache, torchvision's server."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from manifests.errors import BadInput

# backbone -> its weights in torchvision, whose file name ends in the first figures of its sha256
BACKBONES: dict[str, models.WeightsEnum] = {
    "vgg16": models.VGG16_Weights.IMAGENET1K_V1,
    "alexnet": models.AlexNet_Weights.IMAGENET1K_V1,
}


def get_file_name(backbone: str) -> str:
    """torchvision's own name of a backbone's file, such as vgg16-397923af.pth."""
    return str(BACKBONES[backbone].url).rsplit("/", 1)[1]


def find_local_file(name: str, folder: Path | None, cache: str = "checkpoints") -> Path | None:
    """The file of that name in `folder`, else in `cache` under torch hub's; None where there is none.

    Raises BadInput where `folder` is none.
    """
    if folder is not None and not folder.is_dir():
        raise BadInput(f"--weights {folder} is not a folder: name the one that holds {name}.")
    cached = Path(torch.hub.get_dir()) / cache / name
    places = (folder / name if folder is not None else cached, cached)
    return next((place for place in places if place.is_file()), None)


def fetch_weights(backbone: str, folder: Path | None) -> Path:
    """The file of a backbone of BACKBONES: in `folder`, else in torch hub's cache, else downloaded into that cache.

    Raises BadInput, which says what to put where, if it is in none of them.
    """
    name, url = get_file_name(backbone), str(BACKBONES[backbone].url)
    here = find_local_file(name, folder)
    if here is not None:
        return here
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=name.rsplit("-", 1)[1].removesuffix(".pth"))
    except (OSError, RuntimeError, HTTPException) as error:
        raise BadInput(
            f"A loss of this recipe needs torchvision's {backbone} weights, which are not here and cannot be "
            f"downloaded ({error}): put {name} (from {url}) into a folder and say --weights FOLDER."
        ) from error
    return cached


def load_backbone(backbone: str, folder: Path | None) -> nn.Sequential:
    """The convolutional layers of a backbone of BACKBONES: float32, frozen, in eval mode, on the CPU.

    The file may be torchvision's or hold its `features` alone; nothing but tensors is read from it. Raises BadInput
    where there is none, or one that does not fit.
    """
    path = fetch_weights(backbone, folder)
    with torch.device("meta"):  # no time for random weights, and none of torch's random numbers
        features: nn.Sequential = models.get_model(backbone, weights=None).features
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        named = {key.removeprefix("features."): value for key, value in state.items() if "classifier" not in key}
        features.load_state_dict({key: value.float() for key, value in named.items()}, assign=True)
    except Exception as error:  # whatever is wrong with the file, the answer is the same
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise BadInput(
            f"{path} does not hold torchvision's {backbone} weights ({why}): put {BACKBONES[backbone].url} there."
        ) from error
    return features.eval().requires_grad_(False)
