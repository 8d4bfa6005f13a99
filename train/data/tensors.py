"""Converts images between uint8 arrays and float tensors."""

from __future__ import annotations

import numpy as np
import torch


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Converts uint8 (H, W, 3) to float32 (3, H, W) in 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def to_tensors(images: np.ndarray) -> torch.Tensor:
    """Converts uint8 (N, H, W, 3) to float32 (N, 3, H, W) in 0..1. N can be 0."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


def to_image(tensor: torch.Tensor) -> np.ndarray:
    """Converts float32 (3, H, W) to uint8 (H, W, 3). Values are clamped to 0..1 and rounded to levels."""
    return (tensor.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).contiguous().numpy()
