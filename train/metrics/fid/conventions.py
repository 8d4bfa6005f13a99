"""Defines the conventions by which FID prepares images for its network.

All conventions use the same network, Inception v3 with the weights of 2015-12-05. Each convention resizes images in its
own way, so FID values of two conventions cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from manifests.errors import BadInput

SIDE = 299  # The side of the network's input in pixels.


@dataclass(frozen=True)
class Convention:
    """Describes how one library resizes images for FID."""

    resizing: str  # How images are resized: a text after "Images are resized ...". It does not end with a period.
    # Maps images, uint8 (B, 3, H, W), to the input of the network, float32 (B, 3, 299, 299) in -1..1.
    prepare: Callable[[torch.Tensor], torch.Tensor]


def _prepare_like_torch_fidelity(images: torch.Tensor) -> torch.Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (SIDE, SIDE), align_corners=False)
    return torch.as_tensor((resized - 128) / 128)


def _prepare_like_pytorch_fid(images: torch.Tensor) -> torch.Tensor:
    resized = F.interpolate(images.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return 2 * resized - 1


def _prepare_like_clean_fid(images: torch.Tensor) -> torch.Tensor:
    def resize(channel: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(channel.astype(np.float32))
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255)

    resized = np.stack([np.stack([resize(channel) for channel in image]) for image in images.numpy()])
    return (torch.from_numpy(resized) - 128) / 128


CONVENTIONS = {
    "torch-fidelity": Convention(
        "bilinearly without antialiasing, as TensorFlow 1 does. This is how torch-fidelity and the original code of "
        "FID resize",
        _prepare_like_torch_fidelity,
    ),
    "pytorch-fid": Convention(
        "bilinearly without antialiasing, as torch does. This is how pytorch-fid, BasicSR and VQFR's script resize",
        _prepare_like_pytorch_fid,
    ),
    "clean-fid": Convention(
        "by Pillow's bicubic filter with antialiasing, each channel in float32. This is how clean-fid and pyiqa resize",
        _prepare_like_clean_fid,
    ),
}
DEFAULT = "torch-fidelity"  # the convention if the user names none (ours)


def check_convention(name: str) -> None:
    """Raises BadInput if `name` is not a key of CONVENTIONS."""
    if name not in CONVENTIONS:
        raise BadInput(f"There is no FID convention '{name}'; the conventions are {', '.join(CONVENTIONS)}.")


def describe_resizing(name: str) -> str:
    """Returns a sentence about how the convention `name` resizes images. The sentence does not end with a period."""
    return f"Images are resized to {SIDE} px by the convention {name}: {CONVENTIONS[name].resizing}"
