"""Tests that the rewritten networks have the results of the original networks, and the operations that are fast."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from curate.faces.networks.faster_networks import join_convolutions, replace_prelu

RNG = np.random.default_rng(0)


def make_model(
    nodes: list, weights: dict[str, np.ndarray], outputs: tuple[str, ...], opset: int = 17
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 8, 9, 7])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "c", "h", "w"]) for name in outputs],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"in": np.random.default_rng(1).normal(size=(1, 8, 9, 7)).astype(np.float32)})


def count_operations(model: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("steepest", [0.9, 3.0])
@pytest.mark.parametrize("end", ["convolution", "sum", "output"])
def test_a_network_without_prelu_has_the_results_of_the_network_with_prelu(groups, steepest, end):
    """Slopes are also negative or above 1. A result with a slope above 1 changes its sign if only convolutions read the
    result."""
    weights = {
        "slope": np.linspace(-0.5, steepest, 8).reshape(8, 1, 1),
        "after": RNG.normal(size=(16, 8 // groups, 3, 3)),
    }
    last = {
        "convolution": [helper.make_node("Conv", ["bent", "after"], ["out"], group=groups)],
        "sum": [helper.make_node("Add", ["bent", "in"], ["out"])],
        "output": [helper.make_node("Conv", ["bent", "after"], ["out"], group=groups)],
    }[end]
    outputs = ("out", "bent") if end == "output" else ("out",)
    model = make_model([helper.make_node("PRelu", ["in", "slope"], ["bent"]), *last], weights, outputs)
    changed = replace_prelu(copy.deepcopy(model))
    for expected, result in zip(run(model), run(changed), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-5)
    assert count_operations(changed)["PRelu"] == 0
    first = changed.graph.node[0].op_type  # a convolution and the max after it are one operation of onnxruntime
    assert first == ("Relu" if steepest > 1 and end != "convolution" else "Conv")


def test_a_prelu_with_one_slope_stays():
    model = make_model([helper.make_node("PRelu", ["in", "slope"], ["out"])], {"slope": np.array([0.2])}, ("out",))
    assert count_operations(replace_prelu(model)) == {"PRelu": 1}


@pytest.mark.parametrize("opset", [11, 17])
def test_convolutions_that_read_the_same_data_are_one_convolution_with_equal_results(opset):
    weights = {f"w{n}": RNG.normal(size=(n, 8, 3, 3)) for n in (2, 8, 20)} | {
        f"b{n}": RNG.normal(size=n) for n in (2, 8, 20)
    }
    nodes = [helper.make_node("Conv", ["in", f"w{n}", f"b{n}"], [f"out{n}"], pads=[1, 1, 1, 1]) for n in (2, 8, 20)]
    model = make_model(nodes, weights, ("out2", "out8", "out20"), opset)
    changed = join_convolutions(copy.deepcopy(model))
    assert count_operations(changed) == {"Conv": 1, "Split": 1}
    for expected, result in zip(run(model), run(changed), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("sizes", "kernels", "strides", "has_bias", "group"),
    [
        # 16 and 32 channels are multiples of BLOCK, so a joined convolution would save no time
        ((16, 32), (3, 3), (1, 1), (True, True), 1),
        ((2, 8), (3, 1), (1, 1), (True, True), 1),
        ((2, 8), (3, 3), (1, 2), (True, True), 1),
        ((2, 8), (3, 3), (1, 1), (True, False), 1),
        ((2, 8), (3, 3), (1, 1), (True, True), 2),
    ],
)
def test_other_convolutions_stay_apart(sizes, kernels, strides, has_bias, group):
    nodes, weights = [], {}
    for i, (size, kernel, stride, bias) in enumerate(zip(sizes, kernels, strides, has_bias, strict=True)):
        weights[f"w{i}"], weights[f"b{i}"] = RNG.normal(size=(size, 8 // group, kernel, kernel)), RNG.normal(size=size)
        inputs = ["in", f"w{i}", *([f"b{i}"] if bias else [])]
        nodes.append(helper.make_node("Conv", inputs, [f"out{i}"], strides=[stride, stride], group=group))
    model = make_model(nodes, weights, ("out0", "out1"))
    assert count_operations(join_convolutions(model)) == {"Conv": 2}
