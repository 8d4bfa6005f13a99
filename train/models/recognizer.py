"""Turns the recognizer of a dataset into a torch module for the identity loss."""

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
    """Computes unit embeddings of restored faces. Gradients pass through the frozen network to the faces.

    `facts` is the entry `recognizer` of the snapshot. `facts` has the side `size` of the recognizer's crop, and the
    template (5,2) in this crop. `facts` also has the mean and the standard deviation of the input in 0..255.
    """

    def __init__(self, network: nn.Module, facts: dict[str, Any], face_size: int) -> None:
        super().__init__()
        # On a CPU, the convolutions of common recognizers run twice as fast with channels last.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean, self.std = float(facts["mean"]), float(facts["std"])
        # The affine map from the face crop (FFHQ template, `face_size` px) to the recognizer's crop (`size` px).
        size = int(facts["size"])
        matrix = fit_similarity(
            scale_template(FFHQ_512, FFHQ_SIZE, face_size), np.asarray(facts["template"], np.float64)
        )
        # If the recognizer's crop has fewer pixels per face, the face is first shrunk as in curate.faces.align.warp.
        self.shrunk = min(face_size, max(1, round(face_size * compute_scale(matrix))))
        factor = face_size / self.shrunk
        back = invert_affine(matrix)
        back = np.hstack([back[:, :2], back[:, 2:] + 0.5]) / factor - np.array([[0, 0, 0.5], [0, 0, 0.5]])
        # The sampling grid (1,size,size,2): for each pixel of the recognizer's crop, its position in the shrunk face.
        y, x = np.mgrid[:size, :size].astype(np.float64)
        points = np.stack([x, y, np.ones_like(x)], -1) @ back.T
        grid = 2 * points / (self.shrunk - 1) - 1  # align_corners: -1 and 1 are the centres of the outer pixels
        self.grid: torch.Tensor
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float32)[None], persistent=False)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Returns unit embeddings (B,d) of faces (B,3,S,S) in 0..1, which are aligned to the FFHQ template."""
        if faces.shape[-1] != self.shrunk:
            faces = F.interpolate(faces, (self.shrunk, self.shrunk), mode="area")
        grid = self.grid.expand(len(faces), -1, -1, -1)
        crops = F.grid_sample(faces.clamp(0, 1), grid, padding_mode="reflection", align_corners=True)
        crops = ((crops * 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.network(crops))


def load_recognizer(onnx_file: Path, facts: dict[str, Any], face_size: int) -> Recognizer:
    """Returns the recognizer of a snapshot. Raises ModelUnavailable if torch cannot run the ONNX file of the
    recognizer."""
    import onnx
    import onnx2torch

    try:
        # If `convert` gets a path, `convert` writes a file into the folder of the ONNX file. Other processes may read
        # this folder, and the disk may be full. Therefore `convert` gets the loaded model instead of a path.
        network = onnx2torch.convert(onnx.load(str(onnx_file)))
    except Exception as error:  # onnx and onnx2torch raise many kinds of errors
        raise ModelUnavailable(
            f"{onnx_file} cannot be turned into a torch module for the identity loss ({error}): give --no-identity."
        ) from error
    return Recognizer(network, facts, face_size)
