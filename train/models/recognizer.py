"""The dataset's recognizer as a torch module, for the identity loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from curate.faces.align import FFHQ_512, FFHQ_SIZE, compute_scale, fit_similarity, invert_affine, scale_template
from manifests.errors import ModelUnavailable


class Recognizer(nn.Module):
    """Restoration faces -> unit embeddings, frozen and differentiable.

    `facts` are the snapshot's `recognizer`: template (5,2) at `size` pixels, mean and std of the input in 0..255.
    """

    def __init__(self, network: nn.Module, facts: dict[str, Any], face_size: int) -> None:
        super().__init__()
        # convolutions of the usual recognizers run twice as fast on a CPU with channels last
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean, self.std = float(facts["mean"]), float(facts["std"])
        size = int(facts["size"])
        matrix = fit_similarity(
            scale_template(FFHQ_512, FFHQ_SIZE, face_size), np.asarray(facts["template"], np.float64)
        )
        # an enlarged picture is sampled as it is; a larger one is area-resized first, as curate.faces.align.warp does
        self.shrunk = min(face_size, max(1, round(face_size * compute_scale(matrix))))
        factor = face_size / self.shrunk
        back = invert_affine(matrix)
        back = np.hstack([back[:, :2], back[:, 2:] + 0.5]) / factor - np.array([[0, 0, 0.5], [0, 0, 0.5]])
        y, x = np.mgrid[:size, :size].astype(np.float64)
        points = np.stack([x, y, np.ones_like(x)], -1) @ back.T
        grid = 2 * points / (self.shrunk - 1) - 1  # align_corners: -1 and 1 are the centres of the outer pixels
        self.grid: torch.Tensor
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float32)[None], persistent=False)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """(B,3,S,S) in 0..1, FFHQ template -> (B,d) unit embeddings."""
        if faces.shape[-1] != self.shrunk:
            faces = F.interpolate(faces, (self.shrunk, self.shrunk), mode="area")
        grid = self.grid.expand(len(faces), -1, -1, -1)
        crops = F.grid_sample(faces.clamp(0, 1), grid, padding_mode="reflection", align_corners=True)
        crops = ((crops * 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.network(crops))


def load_recognizer(onnx_file: Path, facts: dict[str, Any], face_size: int) -> Recognizer:
    """The recognizer of a snapshot. Raises ModelUnavailable where it cannot be turned into a torch module."""
    import onnx
    import onnx2torch

    try:
        # of a path it would write a file beside it, where others may read at the same time and the disk may be full
        network = onnx2torch.convert(onnx.load(str(onnx_file)))
    except Exception as error:  # onnx, onnx2torch and its operators each raise their own
        raise ModelUnavailable(
            f"{onnx_file} cannot be turned into a torch module for the identity loss ({error}): say --no-identity."
        ) from error
    return Recognizer(network, facts, face_size)
