"""Computes LPIPS by its published formula, without the networks of Likeness."""

from pathlib import Path

import torch
import torchmetrics
from torch.nn import functional as F


def lpips_by_hand(weights: Path, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Returns LPIPS at each location (B,1,S,S) of two images (B,3,S,S) in 0..1, from the layers of VGG16."""
    loaded = torch.load(weights / "vgg16-397923af.pth")
    state = {name.removeprefix("features."): tensor.float() for name, tensor in loaded.items()}
    heads = torch.load(
        Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / "vgg.pth", map_location="cpu"
    )
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    images, total, head = [(2 * image - 1 - shift) / scale for image in (one, other)], torch.zeros(()), 0
    for number in range(30):  # relu follows each convolution, and LPIPS uses the last layer before each pooling
        if f"{number}.weight" in state:
            images = [F.conv2d(x, state[f"{number}.weight"], state[f"{number}.bias"], padding=1) for x in images]
        elif number in (4, 9, 16, 23):
            images = [F.max_pool2d(x, 2) for x in images]
        else:
            images = [x.clamp(min=0) for x in images]
        if number in (3, 8, 15, 22, 29):
            a, b = (x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt() for x in images)
            part = F.conv2d((a - b).square(), heads[f"lin{head}.model.1.weight"])
            total, head = total + F.interpolate(part, one.shape[-2:], mode="bilinear"), head + 1
    return total
