"""Images as tensors and back."""

from __future__ import annotations

import numpy as np
import torch


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W), 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def to_image(tensor: torch.Tensor) -> np.ndarray:
    """float32 (3, H, W), 0..1 -> uint8 (H, W, 3)."""
    return (tensor.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).contiguous().numpy()
