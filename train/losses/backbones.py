"""Loads the backbones of the perceptual losses.

The weights are read from the folder of --weights or from the cache of torch hub. Missing weights are downloaded from
torchvision's address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn

from manifests.errors import BadInput, LikenessError
from manifests.runtime.text import take_first_line

# Maps each backbone to the file name of torchvision's weights IMAGENET1K_V1. A file name contains the first digits of
# the file's sha256. The names are not read from torchvision, because its import takes a second.
BACKBONES = {"vgg16": "vgg16-397923af.pth", "alexnet": "alexnet-owt-7be5be79.pth"}


def get_file_name(backbone: str) -> str:
    """Returns the file name that torchvision uses for the weights of a backbone, for example vgg16-397923af.pth."""
    return BACKBONES[backbone]


def find_url(backbone: str) -> str:
    """Returns the address from which torchvision downloads the weights of a backbone."""
    return f"https://download.pytorch.org/models/{get_file_name(backbone)}"


def find_local_file(name: str, folder: Path | None, cache: str = "checkpoints") -> Path | None:
    """Looks for the file `name` in `folder`, and then in the subfolder `cache` of the torch hub folder.

    Returns the path of the file, or None if the file is in neither folder. Raises BadInput if `folder` is not a folder.
    """
    if folder is not None and not folder.is_dir():
        raise BadInput(f"--weights {folder} is not a folder: give the folder that contains {name}.")
    cached = Path(torch.hub.get_dir()) / cache / name
    places = (folder / name if folder is not None else cached, cached)
    return next((place for place in places if place.is_file()), None)


@contextmanager
def explain_wrong_file(what: str, advice: str) -> Iterator[None]:
    """Turns any error in the block into BadInput, because reading a wrong file of weights can raise any error.

    The message is `what`, the cause in brackets, and `advice`. `advice` has no full stop at its end. A LikenessError is
    not changed.
    """
    try:
        yield
    except LikenessError:
        raise
    except Exception as error:
        raise BadInput(f"{what} ({take_first_line(error).rstrip('.:')}): {advice}.") from error


def fetch_weights(backbone: str, folder: Path | None) -> Path:
    """Returns the path of the weights of a backbone in BACKBONES.

    The function looks for the file in `folder` and then in the cache of torch hub. A missing file is downloaded into
    the cache of torch hub. Raises BadInput if the download fails.
    """
    name, url = get_file_name(backbone), find_url(backbone)
    here = find_local_file(name, folder)
    if here is not None:
        return here
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=name.rsplit("-", 1)[1].removesuffix(".pth"))
    except (OSError, RuntimeError, HTTPException) as error:
        raise BadInput(
            f"A loss of this recipe needs torchvision's {backbone} weights, which are missing and cannot be "
            f"downloaded ({error}): put {name} (from {url}) into a folder and give --weights FOLDER."
        ) from error
    return cached


def load_backbone(backbone: str, folder: Path | None) -> nn.Sequential:
    """Returns the convolutional layers of a backbone in BACKBONES: float32, frozen, in eval mode, on the CPU.

    The file has all weights of torchvision's model, or only the weights of its layers `features`. Only tensors are read
    from the file, so the file cannot run code. Raises BadInput if the file is missing or does not fit the backbone.
    """
    from torchvision import models

    path = fetch_weights(backbone, folder)
    # On the device meta, torch draws no random weights. This saves time and leaves torch's random generator unchanged.
    with torch.device("meta"):
        features: nn.Sequential = models.get_model(backbone, weights=None).features
    with explain_wrong_file(
        f"{path} does not contain torchvision's {backbone} weights",
        f"replace this file by the file from {find_url(backbone)}",
    ):
        state = torch.load(path, map_location="cpu", weights_only=True)
        named = {key.removeprefix("features."): value for key, value in state.items() if "classifier" not in key}
        features.load_state_dict({key: value.float() for key, value in named.items()}, assign=True)
    return features.eval().requires_grad_(False)
