"""Turns an ONNX file or a TorchScript file of a network into a torch module."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def load_network(path: Path) -> nn.Module:
    """Returns the network of an ONNX file, or of a TorchScript file, on the CPU and in eval mode.

    Raises any error if the file cannot be read.
    """
    network: nn.Module
    if path.suffix == ".onnx":
        import onnx
        import onnx2torch

        network = onnx2torch.convert(onnx.load(str(path)))
    else:
        network = torch.jit.load(str(path), map_location="cpu")
    return network.eval()
