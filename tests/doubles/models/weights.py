"""Writes random weights in published layouts, to test losses and metrics without the published weights."""

import atexit
import copy
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torchvision.models import alexnet, vgg16

from train.losses.backbones import get_file_name, load_backbone
from train.metrics.fid.inception import INCEPTION
from train.metrics.networks.deg_recognizer import STATE, FaceResNet18


@cache
def _write_once(write: Callable[[Path, int], Path], seed: int) -> Path:
    """Writes weights into a folder that is removed at the end, and returns the folder."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-weights-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):  # the random numbers of a test do not depend on the first caller
        return write(folder, seed)


def _copying(write: Callable[[Path, int], Path]) -> Callable[..., Path]:
    """Returns a function that copies weights. `write` writes the weights only once, because drawing them takes up to
    two seconds."""

    @wraps(write)
    def write_copy(folder: Path, seed: int = 0) -> Path:
        return Path(shutil.copytree(_write_once(write, seed), folder, dirs_exist_ok=True))

    return write_copy


_load_once = cache(load_backbone)


def load_backbones_once(patch: pytest.MonkeyPatch) -> None:
    """Lets each Objective copy a backbone that is in memory, because to read its file takes twice as long."""
    patch.setattr("train.fit.objective.load_backbone", lambda *words: copy.deepcopy(_load_once(*words)))


@_copying
def random_vgg16(folder: Path, seed: int = 0) -> Path:
    """Writes a file of 29 MB with the name of torchvision's VGG16, and returns the folder.

    The file contains only the convolutional layers, in half precision.
    """
    with torch.device("meta"):
        features = vgg16().features
    features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"features.{name}": value.half() for name, value in features.state_dict().items()}
    torch.save(state, folder / get_file_name("vgg16"))
    return folder


@_copying
def random_alexnet(folder: Path, seed: int = 0) -> Path:
    """Writes a file with the name of torchvision's AlexNet, and returns the folder.

    The file contains only the convolutional layers.
    """
    return _save(alexnet().features, "features.", folder / get_file_name("alexnet"), seed)


@_copying
def random_inception(folder: Path, seed: int = 0) -> Path:
    """Writes a file of 48 MB with the name of FID's Inception v3, in half precision. Returns the folder."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder.mkdir(parents=True, exist_ok=True)
    torch.save({}, folder / "nothing.pth")
    with patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(folder / "nothing.pth"))
    return _save(network, "", folder / INCEPTION[0], seed)


@_copying
def random_resnet18_110(folder: Path, seed: int = 0) -> Path:
    """Writes a file with the name of the recognizer that the published metric Deg uses. Returns the folder.

    The tensors have the names that they get from DataParallel.
    """
    return _save(FaceResNet18(), "module.", folder / STATE, seed)


def _save(network: nn.Module, prefix: str, path: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.normal_(tensor, std=0.1, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {
        name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    torch.save({f"{prefix}{name}": value for name, value in halves.items()}, path)
    return path.parent
