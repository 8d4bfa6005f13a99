"""Random backbones in torchvision's layout, so that every loss can be computed where its real weights are not."""

from pathlib import Path

import torch
from torch import nn
from torchvision.models import vgg16

from train.weights import file_name


def random_vgg16(folder: Path, seed: int = 0) -> Path:
    """FOLDER with a file named as torchvision's VGG16, of its convolutional layers alone; 29 MB in half precision."""
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
    torch.save(state, folder / file_name("vgg16"))
    return folder
