"""Computes the perceptual distances LPIPS and DISTS from the layers of a VGG16. LPIPS also works with AlexNet.

The package torchmetrics contains files with the learned weights of the layers. We do not use the modules of
torchmetrics, for two reasons. The constructors of these modules download the backbone. A call of a module compares only
two images, so a loss with several references would run the restored image through the backbone once for each reference.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

TAPS = {
    "vgg16": (3, 8, 15, 22, 29),  # VGG-16: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.
    "alexnet": (1, 4, 7, 9, 11),  # AlexNet: relu1 to relu5.
}
_HEADS = {"vgg16": "lpips_models/vgg.pth", "alexnet": "lpips_models/alex.pth"}

Layers = list[torch.Tensor]


def _run_layers(
    features: nn.Sequential,
    x: torch.Tensor,
    pool: Callable[[torch.Tensor], torch.Tensor] | None = None,
    taps: tuple[int, ...] = TAPS["vgg16"],
) -> Layers:
    """Returns the outputs of the layers `taps` in the dtype of `x`. The convolutions run in the dtype of their
    weights."""
    layers, outer, inner = [], x.dtype, next(features.parameters()).dtype
    for place, layer in enumerate(list(features.children())[: taps[-1] + 1]):
        x = pool(x.to(outer)) if pool is not None and isinstance(layer, nn.MaxPool2d) else layer(x.to(inner))
        if place in taps:
            layers.append(x.to(outer))
    return layers


def _load_torchmetrics(name: str) -> dict[str, Any]:
    package = importlib.util.find_spec("torchmetrics")  # not imported, because the import takes a second
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "functional" / "image" / name
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def load_heads(backbone: str) -> list[torch.Tensor]:
    """Returns the learned weights of LPIPS, version 0.1, for each layer in TAPS: float32 (1, C, 1, 1)."""
    heads = _load_torchmetrics(_HEADS[backbone])
    return [heads[f"lin{layer}.model.1.weight"] for layer in range(len(TAPS[backbone]))]


class Lpips(nn.Module):
    """Computes LPIPS, version 0.1 (Zhang et al. 2018).

    `features` are the frozen layers of torchvision's `backbone` (see TAPS).

    Images are (B,3,H,W) in 0..1, with sides of at least 16 px for VGG16 and 31 px for AlexNet. Values outside 0..1 are
    allowed.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: nn.Sequential, backbone: str = "vgg16") -> None:
        super().__init__()
        self.features, self.taps = features, TAPS[backbone]
        for layer, head in enumerate(load_heads(backbone)):
            self.register_buffer(f"head{layer}", head)
        # LPIPS's own mean and standard deviation, for images in -1..1
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> Layers:
        """Returns the features of the five layers. The feature vector at each location is scaled to length 1."""
        layers = _run_layers(self.features, (2 * image - 1 - self.shift) / self.scale, taps=self.taps)
        return [layer / (layer.square().sum(1, keepdim=True) + 1e-8).sqrt() for layer in layers]

    def distance(self, one: Layers, other: Layers) -> torch.Tensor:
        """Returns the distances (B,) between images by their features: 0 for equal images, about 1 for very different
        images."""
        return torch.stack([part.mean((1, 2, 3)) for part in self._apart(one, other)]).sum(0)

    def distance_map(self, one: Layers, other: Layers, size: tuple[int, int]) -> torch.Tensor:
        """Returns the distance at each location, (B,1,*size): the spatial variant of LPIPS.

        The distances of each layer are enlarged bilinearly to `size`.
        """
        parts = [F.interpolate(part, size, mode="bilinear") for part in self._apart(one, other)]
        return torch.stack(parts).sum(0)

    def _apart(self, one: Layers, other: Layers) -> Layers:
        pairs = zip(one, other, strict=True)
        return [F.conv2d((a - b).square(), self.get_buffer(f"head{i}")) for i, (a, b) in enumerate(pairs)]


class Dists(nn.Module):
    """Computes DISTS (Ding et al. 2020). `features` are the frozen layers of torchvision's VGG16.

    Images are (B,1 or 3,H,W) in 0..1, with sides of at least 16 px. A gray image is used as three equal channels.
    """

    mean: torch.Tensor
    std: torch.Tensor
    window: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        learned = _load_torchmetrics("dists_models/weights.pt")
        total = learned["alpha"].sum() + learned["beta"].sum()
        for name in ("alpha", "beta"):
            self.register_buffer(name, (learned[name] / total).detach().flatten())
        # the mean and standard deviation of ImageNet
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        # a Hanning window of 5 x 5 without its zeros
        self.register_buffer("window", torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16)

    def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the distances (B,): 0 for equal images, up to about 1. No gradient reaches the target."""
        with torch.no_grad():
            truth = self._layers(target)
        ours = self._layers(restored)
        widths, alike = [layer.shape[1] for layer in ours], torch.zeros((), device=restored.device)
        for a, b, alpha, beta in zip(ours, truth, self.alpha.split(widths), self.beta.split(widths), strict=True):
            # the similarity of the means (texture) and the similarity of the centred features (structure), each (B, C)
            mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
            texture = (2 * mean_a * mean_b + 1e-6) / (mean_a.square() + mean_b.square() + 1e-6)
            a, b = a - mean_a[..., None, None], b - mean_b[..., None, None]
            shared, spread = (a * b).mean((2, 3)), a.square().mean((2, 3)) + b.square().mean((2, 3))
            structure = (2 * shared + 1e-6) / (spread + 1e-6)
            alike = alike + (alpha * texture + beta * structure).sum(1)
        return 1 - alike

    def _layers(self, image: torch.Tensor) -> Layers:
        image = image.expand(-1, 3, -1, -1)
        return [image, *_run_layers(self.features, (image - self.mean) / self.std, self._pool)]

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the root of the mean square over the window, at every second location (L2 pooling)."""
        window = self.window.expand(x.shape[1], 1, -1, -1)
        return (F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
