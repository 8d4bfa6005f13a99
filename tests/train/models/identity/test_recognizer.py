"""Tests that `freeze` changes neither the embeddings nor the gradients of the recognizer as a torch module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx
from torch.nn import functional as F

from curate.faces.align import ARCFACE_112
from train.models.identity.recognizer import Recognizer, add_maps, freeze, load_recognizer

SIZE = 112
FACTS = {"size": SIZE, "template": ARCFACE_112.tolist(), "mean": 127.5, "std": 128.0}


def write_network(path: Path) -> dict[str, torch.Tensor]:
    """Writes a recognizer with a convolution, two batch norms, a PReLU and a linear layer. Returns its weights."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(4, 3, 3, 3)) * 0.2,
        "scale": rng.uniform(0.5, 2, 4),
        "shift": rng.normal(size=4),
        "mean": rng.normal(size=4) * 0.1,
        "variance": rng.uniform(0.5, 2, 4),
        "slopes": np.array([0.3, -0.2, 0.0, 1.5]).reshape(4, 1, 1),
        "matrix": rng.normal(size=(8, 4)),
        "bias": rng.normal(size=8),
    }
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    nodes = [
        helper.make_node("Conv", ["faces", "kernel"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"], epsilon=1e-5),
        helper.make_node("BatchNormalization", ["b", "scale", "shift", "mean", "variance"], ["b2"], epsilon=1e-5),
        helper.make_node("PRelu", ["b2", "slopes"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "matrix", "bias"], ["embedding"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "recognizer",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return {name: torch.from_numpy(values) for name, values in weights.items()}


def embed_plainly(crops: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    """Computes what the network of `write_network` computes, one layer after the other."""
    h = F.conv2d(crops, w["kernel"], stride=2, padding=1)
    for _ in range(2):
        h = F.batch_norm(h, w["mean"], w["variance"], w["scale"], w["shift"], eps=1e-5)
    h = torch.where(h > 0, h, h * w["slopes"])
    return F.normalize(F.linear(h.mean((2, 3)), w["matrix"], w["bias"]))


def cut_crops(recognizer: Recognizer, faces: torch.Tensor) -> torch.Tensor:
    """Returns the crops that the recognizer cuts out of faces for its network."""
    crops = list[torch.Tensor]()
    hook = recognizer.network.register_forward_pre_hook(lambda _, inputs: crops.append(inputs[0]))
    recognizer(faces)
    hook.remove()
    return crops[0]


def test_the_recognizer_computes_what_its_file_says(tmp_path: Path) -> None:
    weights = write_network(tmp_path / "recognizer.onnx")
    recognizer = load_recognizer(tmp_path / "recognizer.onnx", FACTS, 256)
    faces = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    ours, plain = faces.clone().requires_grad_(True), faces.clone().requires_grad_(True)
    embedding, expected = recognizer(ours), embed_plainly(cut_crops(recognizer, plain), weights)
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    (embedding * direction).sum().backward()
    (expected * direction).sum().backward()
    assert ours.grad is not None and plain.grad is not None
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-7, rtol=1e-4)


def test_bf16_changes_the_embeddings_little_and_returns_float32(tmp_path: Path) -> None:
    write_network(tmp_path / "recognizer.onnx")
    full, reduced = (load_recognizer(tmp_path / "recognizer.onnx", FACTS, 256, name) for name in ("fp32", "bf16"))
    faces = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", enabled=False):  # as in train/fit/objective.py
        embedding, expected = reduced(faces), full(faces)
    assert embedding.dtype == torch.float32
    assert not torch.equal(embedding, expected)
    assert (embedding * expected).sum(1).min() > 0.999


def test_a_depthwise_convolution_with_a_stride_runs_in_float32() -> None:
    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = torch.nn.Conv2d(4, 4, 3, stride=2, groups=4)
            self.pointwise = torch.nn.Conv2d(4, 4, 1)

        def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.depthwise(values), self.pointwise(values)

    layers, values = Layers(), torch.rand(1, 4, 8, 8)
    expected = layers.depthwise(values)
    with torch.autocast("cpu", torch.bfloat16):
        depthwise, pointwise = freeze(fx.symbolic_trace(layers))(values)
    assert torch.equal(depthwise, expected)
    assert pointwise.dtype == torch.bfloat16


def test_the_recognizer_has_no_slow_layers_left(tmp_path: Path) -> None:
    write_network(tmp_path / "recognizer.onnx")
    network = load_recognizer(tmp_path / "recognizer.onnx", FACTS, 256).network
    assert isinstance(network, fx.GraphModule)
    modules = dict(network.named_modules())
    kinds = {type(modules[str(node.target)]).__name__ for node in network.graph.nodes if node.op == "call_module"}
    assert "FrozenPRelu" in kinds and not {"BatchNorm2d", "OnnxPReLU"} & kinds


def test_the_maps_are_the_last_of_their_size_and_the_finest_comes_first() -> None:
    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 6, 3, 2, 1)

        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.second(torch.relu(self.first(crops)))).mean((2, 3))

    layers, crops = Layers(), torch.rand(2, 3, SIZE, SIZE)
    embedding, maps = add_maps(fx.symbolic_trace(layers), SIZE)(crops)
    fine = torch.relu(layers.first(crops))
    assert [tuple(values.shape) for values in maps] == [(2, 4, 56, 56), (2, 6, 28, 28)]
    assert torch.equal(maps[0], fine) and torch.equal(maps[1], torch.relu(layers.second(fine)))
    assert torch.equal(embedding, layers(crops))
